"""The kernel is asked where packets would leave: what is kept of the answers equals asking for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP, PlanNode
from gateway_agent.agent.rounds import exit_checks
from gateway_agent.agent.rounds.exit_checks import ExitChecks
from gateway_agent.agent.state import NodeState
from gateway_agent.manifests.model import Inventory, Policy
from gateway_agent.policy.egress_node.exit_paths import Found, Lookup

from ..gates import FakeInterfaces, Gates, HeldThreads

ID = ids.egress_id("partner", "")
EGRESS = PlanEgressIP(ID, "partner", "", slot=1, vni=ids.vni(ID), eligible=("g1",), interface="eth1")
NODES = (PlanNode("g1", "10.0.0.1"), PlanNode("w1", "10.0.0.11"))
PLAN = Plan("g1", 0x0FF00000, 4799, 1450, NODES, (EGRESS,))
MANY = exit_checks.MAX_LOOKUPS_EACH_ROUND + 1


@dataclass
class Router(FakeInterfaces):
    """A kernel that routes everything by one interface, and counts what it is asked."""

    asked: list[int] = field(default_factory=list)
    interface: str = "eth1"

    def look_up(self, lookups: Iterable[Lookup]) -> dict[Lookup, Found]:
        answers = {each: Found(self.interface, each.destination) for each in lookups}
        self.asked.append(len(answers))
        return answers


class Opened(HeldThreads):
    """Threads that wait for nobody."""

    async def run(self, function, *args, **kwargs):  # type: ignore[no-untyped-def]
        return function(*args, **kwargs)


def checks(interfaces: FakeInterfaces) -> ExitChecks:
    def no_probe(*_: object) -> object:
        raise AssertionError("nothing is probed")

    return ExitChecks(NodeState(), no_probe, (), interfaces, Opened(Gates()))  # type: ignore[arg-type]


def policy(name: str, destinations: Iterable[int]) -> Policy:
    return Policy(name, "partner", (), tuple(f"20.{n // 256}.{n % 256}.0/24" for n in destinations))


def answers(found: ExitChecks) -> tuple[object, ...]:
    return found.path(EGRESS), dict(found.leading_out(EGRESS))


def test_at_rest_nothing_is_worked_out_or_asked_again_and_an_edit_asks_for_what_is_new() -> None:
    async def scenario() -> list[int]:
        kernel = Router()
        looking = checks(kernel)
        objects = Inventory(policies=(policy("many", range(MANY)),))
        for _ in range(3):
            await looking.look_up(PLAN, objects, ())
        edited = replace(objects, policies=(*objects.policies, policy("one", [40_000])))
        await looking.look_up(replace(PLAN, mtu=1400), edited, ())
        return kernel.asked

    assert asyncio.run(scenario()) == [MANY, 1]


def test_what_leads_out_is_the_same_object_until_an_answer_changes() -> None:
    async def scenario() -> None:
        kernel = Router()
        looking = checks(kernel)
        objects = Inventory(policies=(policy("few", range(5)),))
        await looking.look_up(PLAN, objects, ())
        first = looking.leading_out(EGRESS)
        assert not looking.path(EGRESS)
        await looking.look_up(PLAN, objects, ())
        assert looking.leading_out(EGRESS) is first and len(first) == 5
        kernel.interface = "eth0"
        await looking.look_up(PLAN, objects, ())
        assert looking.leading_out(EGRESS) == {} and "by eth0" in looking.path(EGRESS)

    asyncio.run(scenario())


def test_few_questions_are_asked_in_each_round() -> None:
    async def scenario() -> list[int]:
        kernel = Router()
        looking = checks(kernel)
        for _ in range(3):
            await looking.look_up(PLAN, Inventory(policies=(policy("few", range(5)),)), ())
        return kernel.asked

    assert asyncio.run(scenario()) == [5, 5, 5]


EDITS = st.lists(
    st.tuples(
        st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=8), max_size=4),
        st.sampled_from([(), ("20.0.1.0/24",), ("20.0.0.0/20", "20.0.17.1/32")]),
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None)
@given(EDITS)
def test_after_any_edits_the_answers_are_those_of_asking_for_all(
    edits: list[tuple[list[set[int]], tuple[str, ...]]],
) -> None:
    async def scenario() -> None:
        before, exit_checks.MAX_LOOKUPS_EACH_ROUND = exit_checks.MAX_LOOKUPS_EACH_ROUND, 0
        try:
            looking = checks(Router())
            for policies, never in edits:
                named = tuple(policy(f"p{n}", sorted(each)) for n, each in enumerate(policies))
                objects = Inventory(policies=named)
                await looking.look_up(PLAN, objects, never)
                fresh = checks(Router())
                await fresh.look_up(PLAN, objects, never)
                assert answers(looking) == answers(fresh)
        finally:
            exit_checks.MAX_LOOKUPS_EACH_ROUND = before

    asyncio.run(scenario())
