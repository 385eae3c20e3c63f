"""The rounds of a node with fakes for the outside world: refusals of the kernel, lost objects, and what follows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cni import contract
from cni.calls import attachments
from cni.kernel import ids
from cni.kernel.errors import KernelError, Outcome, Refusal
from cni.plan import Plan
from gateway_agent.agent.rounds import reconciler
from gateway_agent.manifests.model import Fault, Inventory
from gateway_agent.manifests.store import NotKnown

from ...policy.small_inventory import PARTNER, policy
from ..gates import FakeDaemon, FakeInterfaces, Gates, HeldKernel
from ..test_add_order import EDITS, EMPTY, VETH, World, request, with_policies
from ..test_service import NODES, UP


@dataclass
class RefusingKernel(HeldKernel):
    """A kernel that refuses the calls of some names."""

    refused: Collection[str] = ()
    gateway: str = ""
    """The gateway of which a part is refused; empty: none."""

    async def reconcile(self, plan: Plan, devices: Sequence[str]) -> Outcome:
        await self._check("reconcile")
        await super().reconcile(plan, devices)
        error = KernelError("a route could not be added", "a hint")
        parts = (Refusal(each.id, error) for each in plan.egress_ips if each.gateway == self.gateway)
        return Outcome((), tuple(parts))

    async def tag(self, device: str, group: int) -> None:
        await self._check("tag")
        await super().tag(device, group)

    async def tagged(self) -> dict[str, int]:
        await self._check("tagged")
        return await super().tagged()

    async def _check(self, name: str) -> None:
        if name in self.refused:
            raise KernelError(f"{name} was refused", "a hint")


async def answered(world: World, call: bytes) -> dict[str, object]:
    """Return the error object of the answer to a call; empty if the answer is OK."""
    task = asyncio.create_task(world.calls.handle(call))
    await world.open_all(task.done)
    return {} if task.result() == contract.OK else json.loads(task.result()[len(contract.ERROR) :])


@pytest.mark.parametrize("refused", ["reconcile", "tagged"])
def test_while_the_kernel_refuses_a_plan_selected_pods_do_not_start_and_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    monkeypatch.setattr(reconciler, "RETRY_S", 0.001)

    async def scenario() -> None:
        gates = Gates()
        kernel = RefusingKernel(gates, refused={refused})
        world = World(tmp_path, with_policies(policy("a")), kernel=kernel)
        try:
            await world.open_all(lambda: bool(world.state.trouble))
            assert f"{refused} was refused (a hint)" in [p.message for p in world.problems()]
            assert (await answered(world, request(labels=["b"]))) == {}
            error = await answered(world, request("web-1", labels=["a"]))
            assert (error["code"], error["details"]) == (
                contract.TRY_AGAIN_LATER, f"{refused} was refused (a hint)",
            )  # fmt: skip
            kernel.refused = ()
            assert (await answered(world, request("web-1", labels=["a"]))) == {}
            world.check_answered()
            assert world.state.trouble == ""
        finally:
            await world.close()

    asyncio.run(scenario())


def test_a_refused_part_of_one_gateway_is_its_problem_and_ends_no_round(tmp_path: Path) -> None:
    """The node does not ask for that gateway's address; pods start, and the guards drop what would go by it."""

    async def scenario() -> None:
        kernel, daemon = RefusingKernel(Gates(), gateway=PARTNER.name), FakeDaemon()
        objects = replace(with_policies(policy("a")), nodes=NODES)
        others = {"lease_daemon": daemon, "interfaces": FakeInterfaces({"eth1": UP})}
        world = World(tmp_path, objects, kernel=kernel, others=others)

        def reasons() -> set[str]:
            return {spec.reason for spec in daemon.sent[-1].egress} if daemon.sent else set()

        try:
            await world.open_all(lambda: world.state.followed == objects)
            await world.open_all(lambda: reasons() == {"a route could not be added (a hint)"})
            assert world.state.trouble == ""
            [problem] = [each for each in world.problems() if "a route could not be added" in each.message]
            assert (problem.source, problem.hint, problem.kind) == (PARTNER.source, "a hint", Fault.KERNEL)
            assert PARTNER.name in problem.message
            assert (await answered(world, request("web-1", labels=["a"]))) == {}
            assert kernel.tag_on(VETH)
            kernel.gateway = ""
            # No event reports that the kernel would accept it: the next round asks again.
            world.parts.reconciler.request()
            await world.open_all(lambda: reasons() == {""})
            assert not any("could not be added" in each.message for each in world.problems())
        finally:
            await world.close()

    asyncio.run(scenario())


def test_a_refused_tag_is_an_error_of_the_add_and_no_group_in_the_record(tmp_path: Path) -> None:
    async def scenario() -> None:
        kernel = RefusingKernel(Gates(), refused={"tag"})
        world = World(tmp_path, with_policies(policy("a")), kernel=kernel)
        try:
            await world.open_all(lambda: world.state.followed is not None)
            error = await answered(world, request(labels=["a"]))
            assert (error["code"], error["msg"]) == (contract.KERNEL_REFUSED, "tag was refused")
            [record] = attachments.load_all(tmp_path)[0]
            assert record.group == 0
            assert (await answered(world, request("web-1", labels=["a"], failure_policy="Ignore"))) == {}
            kernel.refused = ()
            # The next round tags what has started without.
            world.parts.reconciler.request()
            await world.open_all(lambda: bool(kernel.tag_on(VETH)))
        finally:
            await world.close()

    asyncio.run(scenario())


@dataclass
class LostStore:
    """A store that does not answer: no inventory comes, and no pod is known."""

    error: Exception

    async def inventories(self) -> AsyncIterator[Inventory]:
        await asyncio.Event().wait()
        yield EMPTY

    async def for_pod(self, namespace: str, name: str, uid: str) -> Inventory | None:
        raise self.error

    def errors(self) -> Mapping[str, int]:
        return {}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NotKnown("the store does not answer"), "the store does not answer"),
        (OSError("no such directory"), "the agent has not read its store yet"),
    ],
    ids=["not known", "not read"],
)
def test_an_agent_without_objects_changes_nothing_and_starts_nothing(
    tmp_path: Path, error: Exception, message: str
) -> None:
    """The plan of an earlier process is on disk, and its rules are in the kernel."""

    async def before() -> Plan:
        world = World(tmp_path, with_policies(policy("a")))
        try:
            assert (await answered(world, request(labels=["a"]))) == {}
            assert world.state.plan is not None
            return world.state.plan
        finally:
            await world.close()

    async def after(plan: Plan) -> None:
        gates = Gates()
        kernel = HeldKernel(gates)
        world = World(tmp_path, store=lambda _: LostStore(error), kernel=kernel)
        try:
            await world.parts.reconciler.next_round()
            assert (world.state.plan, world.state.applied, kernel.plan) == (plan, None, None)
            assert [record.group for record in world.parts.pods.records.values()] == [
                ids.GROUP_BASE + plan.policy_sets[0].number
            ]
            refused = await answered(world, request("web-1", labels=["b"]))
            assert (refused["code"], refused["msg"]) == (contract.TRY_AGAIN_LATER, message)
            assert json.loads(await world.calls.handle(b'ctl1\0{"call": "status"}'))["error"]
        finally:
            await world.close()

    asyncio.run(after(asyncio.run(before())))


def test_pods_keep_their_tags_until_newer_objects_take_them_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path, EDITS[0])
        try:
            assert (await answered(world, request())) == {}
            group = world.kernel.groups[VETH]
            assert group
            world.store.inventory = EMPTY
            await world.open_all(lambda: world.state.followed == EMPTY)
            assert world.kernel.tag_on(VETH) == 0
            assert [record.group for record in attachments.load_all(tmp_path)[0]] == [0]
        finally:
            await world.close()

    asyncio.run(scenario())
