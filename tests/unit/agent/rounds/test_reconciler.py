"""Rounds: their order, what follows a fault at any step, and for whom the last one was enough."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from cni.kernel.errors import KernelError
from gateway_agent.agent.rounds import reconciler
from gateway_agent.agent.rounds.reconciler import Reconciler, Round
from gateway_agent.agent.state import NodeState
from gateway_agent.manifests.model import Inventory

from ...policy.small_inventory import inventory, pod, policy
from ..gates import settle

ONE, TWO = inventory(policy("a")), inventory(policy("a"), policy("b"))
Scenario = Callable[["Rounds"], Awaitable[None]]


@dataclass
class Rounds:
    """A reconciler with two steps that a test makes fail or wait."""

    state: NodeState = field(default_factory=lambda: NodeState(ONE))
    done: list[str] = field(default_factory=list)
    faults: list[Exception | None] = field(default_factory=list)
    """Errors that the second step raises, one round after another."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    searched: list[Inventory] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()
        steps = (("do the first", self.first), ("do the second", self.second))
        self.reconciler = Reconciler(self.state, steps, self.search, asyncio.Event(), self.ended)

    async def first(self, work: Round) -> None:
        self.done.append("first")
        await self.gate.wait()

    async def second(self, work: Round) -> None:
        self.done.append("second")
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault

    async def search(self, inventory: Inventory) -> None:
        self.searched.append(inventory)

    def ended(self) -> None:
        self.done.append("ended")


def run_scenario(scenario: Scenario) -> None:
    async def main() -> None:
        rounds = Rounds()
        task = asyncio.create_task(rounds.reconciler.run())
        try:
            async with asyncio.timeout(20):
                await scenario(rounds)
            assert not task.done()
        finally:
            task.cancel()

    asyncio.run(main())


def test_a_round_does_its_steps_in_order_and_reports_its_end() -> None:
    async def scenario(rounds: Rounds) -> None:
        await rounds.reconciler.next_round()
        await settle()
        assert rounds.done == ["first", "second", "ended"]
        assert (rounds.state.followed, rounds.state.trouble) == (ONE, "")

    run_scenario(scenario)


def test_without_objects_a_round_does_nothing() -> None:
    async def scenario(rounds: Rounds) -> None:
        rounds.state.inventory = None
        await rounds.reconciler.next_round()
        await settle()
        assert rounds.done == ["ended"]
        assert rounds.state.followed is None
        assert rounds.reconciler.outdated_for(pod("a"))

    run_scenario(scenario)


@pytest.mark.parametrize("fault", [KernelError("refused", "look there"), OSError("no room")], ids=repr)
def test_what_the_kernel_or_the_disk_refuses_is_tried_again_by_itself(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(reconciler, "RETRY_S", 0.01)

    async def scenario(rounds: Rounds) -> None:
        rounds.faults = [fault]
        await rounds.reconciler.next_round()
        assert (rounds.state.followed, rounds.state.trouble) == (None, str(fault))
        assert rounds.searched == []
        while rounds.state.followed is None:
            await asyncio.sleep(0.001)
        assert rounds.state.trouble == ""

    run_scenario(scenario)


def test_after_another_fault_the_objects_are_searched_and_the_steps_done_again() -> None:
    async def scenario(rounds: Rounds) -> None:
        rounds.faults = [ZeroDivisionError("labels"), None]
        await rounds.reconciler.next_round()
        assert rounds.searched == [ONE]
        assert rounds.done[:4] == ["first", "second"] * 2
        assert (rounds.state.followed, rounds.state.trouble) == (ONE, "")
        rounds.faults = [ZeroDivisionError("labels"), ZeroDivisionError("again")]
        await rounds.reconciler.next_round()
        assert rounds.state.trouble == "the agent failed: ZeroDivisionError: again"

    run_scenario(scenario)


def test_a_request_during_a_round_leads_to_another_and_waits_for_that() -> None:
    async def scenario(rounds: Rounds) -> None:
        rounds.gate.clear()
        first = asyncio.create_task(rounds.reconciler.next_round())
        await settle()
        later = [asyncio.create_task(rounds.reconciler.next_round()) for _ in range(3)]
        await settle()
        assert rounds.done == ["first"]
        rounds.gate.set()
        await asyncio.gather(first, *later)
        assert rounds.done.count("first") == 2, "several requests are one round"

    run_scenario(scenario)


def test_the_kernel_is_outdated_for_a_pod_until_a_round_has_followed_what_concerns_it() -> None:
    async def scenario(rounds: Rounds) -> None:
        await rounds.reconciler.next_round()
        rounds.state.inventory = TWO
        assert [rounds.reconciler.outdated_for(pod(name)) for name in "ab"] == [False, True]
        rounds.gate.clear()
        waiting = asyncio.create_task(rounds.reconciler.next_round())
        await settle()
        # The round works on these objects now, and may be anywhere: the kernel may do either.
        assert [rounds.reconciler.outdated_for(pod(name)) for name in "ab"] == [False, True]
        rounds.state.inventory = ONE
        assert [rounds.reconciler.outdated_for(pod(name)) for name in "ab"] == [False, True]
        rounds.gate.set()
        await waiting
        await rounds.reconciler.next_round()
        assert [rounds.reconciler.outdated_for(pod(name)) for name in "ab"] == [False, False]

    run_scenario(scenario)
