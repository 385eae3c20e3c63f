"""The status of gateways and policies, and the node that writes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from cni.plan import PlanNode
from gateway_agent.kubernetes.conditions import Report, cluster_status_writer, gateway_status_writer, reports
from gateway_agent.lease.ipc import Conflict, MemberState
from gateway_agent.lease.voting.members import NO_MAJORITY
from gateway_agent.manifests.model import Problem
from gateway_agent.show.snapshot import NodeSnapshot

from ..show import test_status as basic
from ..show import test_status_virtual as virtual

NOW = basic.AT_S + 60
AT_S, LATER = "2026-11-21T21:00:00Z", "2026-11-21T21:01:00Z"
MEMBERS = (MemberState("g1", True, True, "", 40), MemberState("g2", True, True, "", 40))


def of(name: str, kind: str = "EgressGateway", status: Any = None) -> dict[str, Any]:
    item = {"kind": kind, "metadata": {"name": name, "generation": 4}}
    return item | ({"status": status} if status else {})


def seen(node: str = "g1", **keeper: Any) -> NodeSnapshot:
    """Of virtual addresses: g1 serves one IPv4 and the IPv6 address, g2 the other IPv4 address."""
    view = virtual.view(node)
    assert view.lease_daemon is not None
    return replace(
        view, lease_daemon=msgspec.structs.replace(view.lease_daemon, **{"members": MEMBERS, **keeper})
    )


def without_master(view: NodeSnapshot) -> NodeSnapshot:
    assert view.lease_daemon is not None
    states = tuple(
        msgspec.structs.replace(s, master="", epoch=0, reason="nobody asks") for s in view.lease_daemon.egress
    )
    return replace(view, lease_daemon=msgspec.structs.replace(view.lease_daemon, egress=states))


def only(view: NodeSnapshot, item: dict[str, Any], now: float = NOW) -> Report:
    [report] = reports(view, [item], now)
    return report


def ready(report: Report) -> tuple[str, str, str, str]:
    [condition] = report.status["conditions"]
    return condition["status"], condition["reason"], condition["message"], condition["lastTransitionTime"]


def test_a_gateway_that_serves() -> None:
    report = only(seen(), of("partner"))
    assert (report.kind, report.name) == ("EgressGateway", "partner")
    assert report.status["activeNodeName"] == "g1"
    assert (report.status["readyNodes"], report.status["observedGeneration"]) == (2, 4)
    rows = {row["ip"]: (row["node"], row["epoch"], row["since"]) for row in report.status["egressIPs"]}
    assert rows == {address: (master, 3, AT_S) for address, master in virtual.MASTERS.items()}
    assert ready(report) == ("True", "ElectionSucceedAndVirtualIPAnnounced", "", LATER)


def test_basic_mode_has_its_own_reason() -> None:
    [report] = reports(basic.view("g1"), [of("partner")], NOW)
    assert ready(report)[:2] == ("True", "ElectionSucceed")
    assert [row["ip"] for row in report.status["egressIPs"]] == ["192.0.2.7"]


def test_a_gateway_without_a_master_says_why() -> None:
    view = without_master(seen())
    assert gateway_status_writer(view, "partner") == "g1"
    report = only(view, of("partner"))
    assert report.status["activeNodeName"] == ""
    status, reason, message, _ = ready(report)
    assert (status, reason) == ("False", "ElectionFailed")
    assert message.endswith(": nobody asks")
    assert all(address in message for address in virtual.MASTERS)


def test_another_machine_with_the_address() -> None:
    first = next(iter(virtual.IDS))
    conflict = Conflict(virtual.IDS[first], first, "02:00:00:00:00:01", "eth1", basic.AT_S)
    status, reason, message, _ = ready(only(seen(conflicts=(conflict,)), of("partner")))
    assert (status, reason) == ("False", "VirtualIPAnnouncingFailed")
    assert message == f"02:00:00:00:00:01 on eth1 claims {first} too"


def test_what_is_stored_is_not_written_again_and_keeps_its_time() -> None:
    view = seen()
    first = only(view, of("partner"))
    assert list(reports(view, [of("partner", status=first.status)], NOW + 100)) == []
    changed = only(view, of("partner", status={**first.status, "readyNodes": 7}), NOW + 100)
    assert changed.status == first.status
    lost = only(without_master(view), of("partner", status=first.status), NOW + 100)
    assert ready(lost)[3] == "2026-11-21T21:02:40Z"


def test_one_node_writes() -> None:
    authors = {gateway_status_writer(seen(node), "partner") for node in ("g1", "g2", "w1")}
    assert authors == {"g1"}
    assert [list(reports(seen(node), [of("partner")], NOW)) for node in ("g2", "w1")] == [[], []]
    assert {cluster_status_writer(seen(node)) for node in ("g1", "g2", "w1")} == {"g1"}


def test_a_node_that_is_cut_off_writes_nothing() -> None:
    view = seen()
    alone = replace(view, plan=replace(view.plan, isolated=True))
    assert list(reports(alone, [of("partner"), of("both", "EgressGatewayPolicy")], NOW)) == []
    assert list(reports(replace(view, lease_daemon=None), [of("partner")], NOW)) == []


def test_a_gateway_that_is_wrong() -> None:
    view = seen()
    wrong = replace(view, problems=(Problem("EgressGateway partner", "spec.sourceIP", "is required"),))
    assert ready(only(wrong, of("partner")))[:3] == ("False", "Invalid", "spec.sourceIP: is required")


@pytest.mark.parametrize(
    ("name", "problems", "expected"),
    [
        ("both", (), ("True", "GatewayFound", "")),
        ("both", (Problem("EgressGatewayPolicy both", "spec", "x"),), ("False", "Invalid", "spec: x")),
        ("new", (), ("False", "Invalid", "the agents do not know it yet")),
    ],
)
def test_policies(name: str, problems: tuple[Problem, ...], expected: tuple[str, str, str]) -> None:
    view = replace(seen(), problems=problems)
    assert ready(only(view, of(name, "EgressGatewayPolicy")))[:3] == expected


def test_a_policy_that_names_no_gateway() -> None:
    view = seen()
    gateways = tuple(g for g in view.inventory.gateways if g.name != "plain")
    lost = replace(view, inventory=replace(view.inventory, gateways=gateways))
    name = next(p.name for p in view.inventory.policies if p.gateway == "plain")
    status, reason, message, _ = ready(only(lost, of(name, "EgressGatewayPolicy")))
    assert (status, reason) == ("False", "GatewayNotFound")
    assert message == "there is no EgressGateway plain: what the policy selects is dropped"


def test_a_keeper_that_has_just_started_makes_no_node_the_author() -> None:
    """It knows of no master yet, and would report that there is none."""
    fresh = replace(without_master(seen()), settled=False)
    assert (gateway_status_writer(fresh, "partner"), cluster_status_writer(fresh)) == ("", "")
    assert list(reports(fresh, [of("partner"), of("both", "EgressGatewayPolicy")], NOW)) == []


def test_a_keeper_that_has_just_learned_of_a_gateway_makes_no_node_the_author() -> None:
    """The inventory of its agent may come long after its start."""
    view = seen()
    assert view.lease_daemon is not None
    unknown = replace(
        view, lease_daemon=msgspec.structs.replace(view.lease_daemon, egress=view.lease_daemon.egress[1:])
    )
    assert (gateway_status_writer(view, "partner"), gateway_status_writer(unknown, "partner")) == ("g1", "")
    assert list(reports(unknown, [of("partner")], NOW)) == []


@pytest.mark.parametrize(("why", "writer"), [(NO_MAJORITY, "w1"), ("eth1 is down", "g1")])
def test_a_worker_writes_where_no_egress_node_can(why: str, writer: str) -> None:
    members = tuple(MemberState(name, True, False, why, 40) for name in ("g1", "g2"))
    assert gateway_status_writer(without_master(seen("w1", members=members)), "partner") == writer


@pytest.mark.parametrize(
    ("members", "writer"),
    [
        (MEMBERS, "g1"),
        (tuple(MemberState(f"g{n}", n == 2, False, "eth1 is down", 40) for n in (1, 2)), "g2"),
        (tuple(MemberState(f"g{n}", True, False, NO_MAJORITY, 40) for n in (1, 2)), "w1"),
        ((), "w1"),
    ],
    ids=["egress nodes are alive", "one is", "none has a majority", "there are none"],
)
def test_a_node_without_an_agent_does_not_write(members: tuple[MemberState, ...], writer: str) -> None:
    """A Node object may be of a machine without an agent, and its name come first."""
    view = seen("w1", members=members, voters=("gone", "w1"))
    nodes = (PlanNode("a-node", "10.0.0.90"), *view.plan.nodes)
    view = replace(view, plan=replace(view.plan, nodes=nodes), inventory=replace(view.inventory, gateways=()))
    assert gateway_status_writer(view, "refused") == writer
    assert cluster_status_writer(view) == writer
