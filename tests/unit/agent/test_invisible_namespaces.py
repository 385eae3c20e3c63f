"""A pod whose network namespace cannot be seen, before the first plan: its uplinks are not known yet.

The result of the CNI plugin before ours names a veth of the node itself beside that of the pod. Until a plan says which
interfaces lead to other machines no interface of that result is tagged, and no pod starts by it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cni import contract
from cni.kernel.errors import KernelError, Outcome
from cni.plan import Plan
from gateway_agent.policy.egress_node.readiness import InterfaceFacts

from .gates import FakeInterfaces, Gates, HeldKernel, settle
from .test_add_order import EDITS, EMPTY, VETH, World, request

UPLINK = "eth0"
FACTS = {
    UPLINK: InterfaceFacts(
        True, True, 1500, ("172.16.0.21/24",), forwarding=True, default_route=frozenset({4}), uplink=True
    )
}


@dataclass
class BlindKernel(HeldKernel):
    """A kernel that sees no namespace of a pod."""

    named: bool = True
    ever_tagged: set[str] = field(default_factory=set)
    """The interfaces that were ever tagged."""
    refuses: bool = False

    async def tag(self, device: str, group: int) -> None:
        self.ever_tagged.add(device)
        await super().tag(device, group)

    async def reconcile(self, plan: Plan, devices: Sequence[str]) -> Outcome:
        if self.refuses:
            raise KernelError("reconcile was refused", "a hint")
        return await super().reconcile(plan, devices)


def naming(*interfaces: str, failure_policy: str = "Fail") -> bytes:
    """Return an ADD whose result names these interfaces outside of the pod."""
    environment, configuration = contract.split_cni_request(request(failure_policy=failure_policy))
    reported = json.loads(configuration)
    reported["prevResult"]["interfaces"] = [
        *({"name": name} for name in interfaces),
        {"name": "eth0", "sandbox": "/x"},
    ]
    reported["prevResult"]["ips"][0]["interface"] = len(interfaces)
    variables = tuple(environment[name].encode() for name in contract.ENVIRONMENT)
    return contract.cni_request(variables, json.dumps(reported).encode())


def blind_world(
    directory: Path, selected: bool = True, before: Callable[[], None] = lambda: None
) -> tuple[World, BlindKernel]:
    """Return a world and its kernel. ``before`` is called when the interfaces are read."""
    kernel = BlindKernel(Gates())
    inventory = EDITS[0] if selected else EMPTY
    return World(
        directory, inventory, kernel=kernel, others={"interfaces": FakeInterfaces(FACTS, before)}
    ), kernel


@pytest.mark.parametrize("seed", range(60))
def test_the_veth_is_tagged_and_the_uplink_never_is_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The ADD comes at any moment of the agent's start; the names come in both orders."""
    monkeypatch.setattr("gateway_agent.agent.requests.cni_add.ADD_S", 600.0)
    rng = random.Random(seed)
    names, selected = rng.sample([UPLINK, VETH], 2), rng.random() < 0.8

    async def main() -> None:
        world, kernel = blind_world(tmp_path, selected)
        try:
            for _ in range(rng.choice([0, 0, 1, 2, 4, 8])):
                await settle()
                if world.gates.waiting:
                    await world.gates.open(rng.randrange(len(world.gates.waiting)))
            call = asyncio.create_task(world.calls.handle(naming(*names)))
            while not call.done():
                await settle()
                if world.gates.waiting:
                    await world.gates.open(rng.randrange(len(world.gates.waiting)))
            assert call.result() == contract.OK
            world.check_answered()
            assert kernel.ever_tagged == {VETH}
            assert world.kernel.plan is not None
            assert world.kernel.plan.uplinks == (UPLINK,), (
                "its facts are still those of an interface of the node"
            )
            [record] = world.parts.pods.records.values()
            assert record.host_interfaces == (VETH,)
        finally:
            await world.close()

    asyncio.run(main())


@pytest.mark.parametrize("selected", [True, False], ids=["selected", "not selected"])
def test_with_nothing_but_an_uplink_a_selected_pod_is_refused(tmp_path: Path, selected: bool) -> None:
    async def main() -> None:
        world, kernel = blind_world(tmp_path, selected)
        try:
            call = asyncio.create_task(world.calls.handle(naming(UPLINK)))
            await world.open_all(call.done)
            if selected:
                error = json.loads(call.result()[len(contract.ERROR) :])
                assert error["code"] == contract.NO_HOST_INTERFACE
                assert "is selected by a but has no host-side veth" in error["msg"]
            else:
                assert call.result() == contract.OK
            assert kernel.ever_tagged == set()
        finally:
            await world.close()

    asyncio.run(main())


@pytest.mark.parametrize("failure_policy", ["Fail", "Ignore"])
@pytest.mark.parametrize("selected", [True, False], ids=["selected", "not selected"])
def test_as_long_as_no_plan_can_be_made_the_pod_is_refused_and_nothing_is_tagged(
    tmp_path: Path, selected: bool, failure_policy: str
) -> None:
    async def main() -> None:
        def unable() -> None:
            raise OSError("the interfaces cannot be read")

        world, kernel = blind_world(tmp_path, selected, unable)
        try:
            call = asyncio.create_task(
                world.calls.handle(naming(VETH, UPLINK, failure_policy=failure_policy))
            )
            await world.open_all(call.done)
            if failure_policy == "Fail":
                error = json.loads(call.result()[len(contract.ERROR) :])
                assert error["code"] == contract.TRY_AGAIN_LATER
                assert "/run/netns/x of pod prod/web-0 cannot be seen from here" in error["msg"]
                assert "the interfaces cannot be read" in error["details"]
            else:
                assert call.result() == contract.OK
            assert kernel.ever_tagged == set()
            assert world.parts.pods.records == {}
        finally:
            await world.close()

    asyncio.run(main())


def test_while_the_kernel_refuses_the_first_plan_a_selected_pod_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        world, kernel = blind_world(tmp_path)
        kernel.refuses = True
        try:
            call = asyncio.create_task(world.calls.handle(naming(VETH, UPLINK)))
            await world.open_all(call.done)
            error = json.loads(call.result()[len(contract.ERROR) :])
            assert error["code"] == contract.TRY_AGAIN_LATER
            assert "the path of pod prod/web-0 to its gateway is not complete" in error["msg"]
            assert "reconcile was refused" in error["details"]
            assert kernel.ever_tagged == set()
        finally:
            await world.close()

    asyncio.run(main())
