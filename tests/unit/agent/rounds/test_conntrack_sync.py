"""conntrackd follows the plan: it starts at once, and starts anew only when nothing is being handed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from cni.plan import Plan, PlanEgressIP, PlanNode
from gateway_agent.agent.rounds.conntrack_sync import NAME, SETTLE_TIME_S, ConntrackSync
from gateway_agent.policy.egress_node.sync_groups import SyncState

from ..gates import HeldClock

NODES = tuple(PlanNode(name, f"10.0.0.{number}") for number, name in enumerate(("g1", "g2", "g3"), 1))
DIRECTORY = Path("/run/egress-gateway")


class Processes:
    """The processes of conntrackd: what they were given, and how they are."""

    def __init__(self) -> None:
        self.given: list[Mapping[str, str]] = []
        self.states: dict[str, SyncState] = {}
        self.index = 7
        self.serving = False
        self.stopped = False

    def set(self, configurations: Mapping[str, str]) -> None:
        self.given.append(configurations)
        self.states = {name: SyncState(running=True, in_sync=True, reason="") for name in configurations}

    def serve(self, serving: bool) -> None:
        self.serving = serving

    def state(self) -> Mapping[str, SyncState]:
        return self.states

    def interface_index(self, name: str) -> int:
        return self.index

    async def stop(self) -> None:
        self.stopped = True


def plan(*eligible: str, sync: bool = True) -> Plan:
    egress = PlanEgressIP("a" * 16, "partner", "172.16.0.50", 1, 1, eligible, "g1", sync=sync)
    return Plan("g1", 0x0FF00000, 4799, 1450, NODES, (egress,))


def follow(scenario: Callable[[ConntrackSync, Processes, HeldClock, list[float]], None]) -> None:
    """Run a scenario in an event loop whose time stands until the scenario moves it."""
    clock, processes, rounds = HeldClock(), Processes(), []

    async def main() -> None:
        sync = ConntrackSync(DIRECTORY, processes, lambda: rounds.append(clock.now))
        scenario(sync, processes, clock, rounds)

    try:
        clock.run_until_complete(main())
    finally:
        clock.close()


def test_without_a_partner_nothing_runs() -> None:
    def scenario(sync: ConntrackSync, processes: Processes, clock: HeldClock, rounds: list[float]) -> None:
        sync.follow(plan("g1", "g2", sync=False))
        assert processes.states == {}
        assert sync.behind() == ""
        assert not processes.serving

    follow(scenario)


def test_it_starts_at_once_and_knows_that_this_node_serves() -> None:
    def scenario(sync: ConntrackSync, processes: Processes, clock: HeldClock, rounds: list[float]) -> None:
        sync.follow(plan("g1", "g2"))
        assert set(processes.given[-1]) == {NAME}
        assert processes.serving

    follow(scenario)


def test_with_another_set_of_nodes_it_starts_anew_after_a_rest_only() -> None:
    def scenario(sync: ConntrackSync, processes: Processes, clock: HeldClock, rounds: list[float]) -> None:
        sync.follow(plan("g1", "g2"))
        number = len(processes.given)
        sync.follow(plan("g1", "g2", "g3"))
        clock.now += SETTLE_TIME_S / 2
        sync.follow(plan("g1", "g2", "g3"))
        # Here the set of nodes is part of the device and not of the configuration: no restart is needed at all, or one
        # after the rest.
        assert len(processes.given) - number <= 1
        assert processes.states[NAME].running

    follow(scenario)


def test_with_another_device_it_starts_anew_at_once() -> None:
    """It receives nothing by a device that is gone."""

    def scenario(sync: ConntrackSync, processes: Processes, clock: HeldClock, rounds: list[float]) -> None:
        sync.follow(plan("g1", "g2"))
        before = processes.given[-1]
        processes.index = 8
        sync.follow(plan("g1", "g2"))
        assert processes.given[-1] != before

    follow(scenario)


def test_the_end_of_the_sync_waits_for_a_rest() -> None:
    """A gateway that is edited twice must not cost its connections: the tables stay until the plan has settled."""

    def scenario(sync: ConntrackSync, processes: Processes, clock: HeldClock, rounds: list[float]) -> None:
        processes.index = 0
        sync.follow(plan("g1", "g2"))
        sync.follow(plan("g1", "g2", sync=False))
        assert processes.given[-1], "it still runs"
        clock.now += SETTLE_TIME_S
        sync.follow(plan("g1", "g2", sync=False))
        assert processes.given[-1] == {}

    follow(scenario)


def test_a_node_that_is_behind_says_why_and_one_that_cannot_start_is_a_trouble() -> None:
    def scenario(sync: ConntrackSync, processes: Processes, clock: HeldClock, rounds: list[float]) -> None:
        sync.follow(plan("g1", "g2"))
        processes.states = {NAME: SyncState(running=True, reason="receives the table")}
        assert sync.behind() == "receives the table"
        assert sync.troubles() == []
        processes.states = {NAME: SyncState(running=False, error="no such device")}
        assert sync.behind() == ""
        assert sync.troubles() == ["no such device"]

    follow(scenario)


def test_a_run_directory_that_conntrackd_would_misread_is_a_trouble_until_it_is_another() -> None:
    async def main() -> list[str]:
        sync = ConntrackSync(Path("/run/a b"), Processes(), lambda: None)
        sync.follow(plan("g1", "g2"))
        return sync.troubles()

    assert asyncio.run(main()) == ["conntrackd accepts no path like /run/a b/conntrackd-sync"]


def test_after_the_stop_nothing_starts_again() -> None:
    async def main() -> Processes:
        processes = Processes()
        sync = ConntrackSync(DIRECTORY, processes, lambda: None)
        await sync.stop()
        sync.follow(plan("g1", "g2"))
        return processes

    processes = asyncio.run(main())
    assert processes.stopped
    assert processes.given == []
