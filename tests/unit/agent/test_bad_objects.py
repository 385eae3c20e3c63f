"""One object that no reader found wrong fails in planning, in writing or in tagging: the agent serves all others.

The store of these tests says things that its readers would not let pass; the agent is real.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cni import contract
from cni.plan import PodIdentity, Requirement, Selector
from gateway_agent.manifests.model import Inventory, Node, Policy

from ..policy.small_inventory import NODES, PARTNER, policy
from .test_add_order import VETH, World, request, run_scenario


class Broken(Mapping[str, str]):
    """Labels that cannot be read. The threads that tried are in ``asked``."""

    def __init__(self) -> None:
        self.asked: list[threading.Thread] = []

    def _fail(self) -> None:
        self.asked.append(threading.current_thread())
        raise ZeroDivisionError("labels")

    def __getitem__(self, key: str) -> str:
        self._fail()
        return ""

    def __iter__(self) -> Iterator[str]:
        self._fail()
        return iter(())

    def __len__(self) -> int:
        return 1

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


LABELS = Broken()
GOOD = Inventory((PARTNER,), (policy("a"),), NODES)
BY_NAMESPACE = Policy(
    "by-ns", "partner", (Selector((), (Requirement("team", "Exists"),)),), ("203.0.113.0/24",)
)
BAD = {
    "policy": (
        replace(GOOD, policies=(policy("a"), policy("bad", "partner", "no prefix"))),
        "policies.yaml: bad ",
    ),
    "node": (
        replace(GOOD, nodes=(*NODES, Node("bad", {}, ("no address",), "nodes.yaml"))),
        "nodes.yaml: bad ",
    ),
    "namespace": (
        replace(
            GOOD, policies=(policy("a"), BY_NAMESPACE), namespaces={"bad": Broken(), "good": {"team": "x"}}
        ),
        "namespace bad: bad ",
    ),
    "pod": (replace(GOOD, pods=(PodIdentity("prod", "web-0", LABELS),)), "pod prod/web-0: prod/web-0 "),
    "service": (replace(GOOD, service_cidrs=("10.96.0.0/16", "bad")), "ServiceCIDR bad: bad "),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_object_is_a_problem_with_its_name_and_the_others_count(tmp_path: Path, kind: str) -> None:
    inventory, named = BAD[kind]
    LABELS.asked.clear()

    async def scenario(world: World) -> None:
        await world.open_all(lambda: world.state.applied is not None)
        call = asyncio.create_task(world.calls.handle(request()))
        await world.open_all(lambda: call.done() and world.kernel.tag_on(VETH) > 0)
        before = world.kernel.groups[VETH]
        world.store.inventory = inventory
        for _ in range(500):
            await world.open_but("nothing")
            if (
                any(named in str(problem) for problem in world.state.plan_problems)
                and not world.state.trouble
            ):
                break
        assert next(
            str(p) for p in world.state.plan_problems if "cannot be planned: " in p.message
        ).startswith(named)
        assert world.state.trouble == ""
        assert world.kernel.groups[VETH] == before, "the pod keeps its tag"
        if kind == "pod":
            # Neither plans nor the search for it are made in the event loop.
            asked = [thread is threading.main_thread() for thread in LABELS.asked]
            assert len(asked) > 1 and not any(asked)
        later = replace(inventory, policies=(*inventory.policies, policy("later")))
        world.store.inventory = later
        await world.open_all(lambda: any(p.name == "later" for p in (world.kernel.plan or GOOD).policies))
        assert not any(task.done() for task in world.running)

    run_scenario(tmp_path, scenario, GOOD)


def test_a_pod_whose_object_cannot_be_planned_does_not_start(tmp_path: Path) -> None:
    """Nothing of it is known for sure: the call is refused and does not wait in vain."""

    async def scenario(world: World) -> None:
        await world.open_all(lambda: world.state.followed == world.store.inventory)
        call = asyncio.create_task(world.calls.handle(request()))
        await world.open_all(call.done)
        assert call.result().startswith(contract.ERROR)
        assert not world.kernel.tag_on(VETH)

    run_scenario(tmp_path, scenario, BAD["pod"][0])
