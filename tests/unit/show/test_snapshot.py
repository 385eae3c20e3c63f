"""The path of packets to an egress IP, derived from the state of a node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cni.plan import Plan
from cni.plan_objects import PlanEgressIP, PlanNode
from gateway_agent.lease.ipc import EgressState, KeeperState
from gateway_agent.manifests.model import BASIC, Gateway, Inventory
from gateway_agent.show import snapshot
from gateway_agent.show.snapshot import DIRECT, DROPPED, GATEWAY, NodeSnapshot

EGRESS = PlanEgressIP("e1", "partner", "172.16.0.50", 1, 700, ("g1", "g2"), "g1", 3, interface="eth1")
NODES = (PlanNode("g1", "172.16.0.7"), PlanNode("g2", "172.16.0.8"), PlanNode("w1", "172.16.0.21"))


def view(
    egress: PlanEgressIP = EGRESS, node: str = "w1", state: EgressState | None = None, **more: Any
) -> NodeSnapshot:
    plan = Plan(node, 0x0FF00000, 4799, 1450, NODES, (egress,))
    daemon = KeeperState(node, 1, (state,), (), (), 0, False, {}) if state else None
    inventory = Inventory(gateways=(Gateway("partner", (), BASIC, "eth2"),))
    return replace(NodeSnapshot(plan, inventory, lease_daemon=daemon), **more)


def state(master: str, epoch: int = 7, reason: str = "", shown: str = "") -> EgressState:
    return EgressState("e1", master, epoch, 0, "none", reason, shown)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (None, ("g1", 3)),
        (state("g2"), ("g2", 7)),
        (state(""), ("", 7)),
        (state("gone"), ("", 7)),
    ],
    ids=["plan", "lease daemon", "no master", "a node without a tunnel"],
)
def test_the_lease_daemon_knows_the_master_before_the_plan(
    reported: EgressState | None, expected: tuple[str, int]
) -> None:
    assert snapshot.master(view(state=reported), EGRESS) == expected


@pytest.mark.parametrize(
    ("egress", "node", "master", "family", "verdict", "via"),
    [
        (EGRESS, "w1", "g1", 0, GATEWAY, "g1"),
        (EGRESS, "w1", "g1", 4, GATEWAY, "g1"),
        (EGRESS, "g1", "g1", 4, GATEWAY, "g1"),
        (EGRESS, "w1", "", 4, DROPPED, ""),
        (replace(EGRESS, direct=True), "w1", "", 4, DIRECT, ""),
        (EGRESS, "w1", "g1", 6, DROPPED, ""),
        (replace(EGRESS, direct=True), "w1", "g1", 6, DIRECT, ""),
        (EGRESS, "stranger", "g1", 4, DROPPED, "g1"),
    ],
    ids=[
        "tunnel",
        "its family",
        "this node is the master",
        "no master",
        "no master, direct",
        "the other family",
        "the other family, direct",
        "this node is not in the inventory",
    ],
)
def test_the_verdict_on_packets_to_an_egress_ip(
    egress: PlanEgressIP, node: str, master: str, family: int, verdict: str, via: str
) -> None:
    found = snapshot.path_verdict(view(egress, node, state(master)), egress, family)
    assert (found.verdict, found.via) == (verdict, via)
    assert found.ip == (egress.address if verdict == GATEWAY else "")
    assert found.path


def test_in_basic_mode_the_address_is_that_which_the_master_reports() -> None:
    basic = replace(EGRESS, address="")
    assert snapshot.shown_address(view(basic, state=state("g1", shown="192.0.2.7")), basic) == "192.0.2.7"
    assert snapshot.shown_address(view(basic, state=state("gone", shown="192.0.2.7")), basic) == ""
    assert snapshot.shown_address(view(basic), basic) == ""
    unknown = snapshot.path_verdict(view(basic, state=state("g1")), basic)
    assert unknown.ip == "" and "its address on eth2" in unknown.path


@pytest.mark.parametrize(
    ("egress", "reported", "reason"),
    [
        (
            replace(EGRESS, eligible=()),
            state("", reason="late"),
            "no node can serve it: see the problems in status",
        ),
        (EGRESS, None, "the lease daemon has not reported it yet"),
        (EGRESS, state("", reason="g1: interface eth1 is down"), "g1: interface eth1 is down"),
        (EGRESS, state(""), "no node holds its lease"),
    ],
)
def test_the_reason_why_there_is_no_master(
    egress: PlanEgressIP, reported: EgressState | None, reason: str
) -> None:
    assert snapshot.no_master_reason(view(egress, state=reported), egress) == reason


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, ""), (1795294800.0, "2026-11-21T21:00:00Z"), (1795294800.9, "2026-11-21T21:00:00Z")],
)
def test_times_are_utc_in_whole_seconds_and_zero_is_none(seconds: float, text: str) -> None:
    assert snapshot.rfc3339(seconds) == text
