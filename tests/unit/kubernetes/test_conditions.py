"""The status of gateways and policies, who writes it, and what people hear of once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway_agent.kubernetes.conditions import Report, cluster_status_writer, gateway_status_writer, reports
from gateway_agent.kubernetes.k8s_events import (
    EventRecord,
    EventSource,
    event,
    is_due,
    is_outdated,
    of_report,
    repeated,
)
from gateway_agent.lease.ipc import Change, Conflict, KeeperState, MemberState
from gateway_agent.lease.mastership.masters import NO_MAJORITY
from gateway_agent.manifests.model import Problem
from gateway_agent.show.snapshot import NodeSnapshot

from ..show import test_status as basic
from ..show import test_status_virtual as virtual

NOW = basic.AT + 60
AT, LATER = "2026-11-21T21:00:00Z", "2026-11-21T21:01:00Z"
MEMBERS = (MemberState("g1", True, True, "", 40), MemberState("g2", True, True, "", 40))


def of(name: str, kind: str = "EgressGateway", status: Any = None) -> dict[str, Any]:
    item = {"kind": kind, "metadata": {"name": name, "generation": 4}}
    return item | ({"status": status} if status else {})


def seen(node: str = "g1", **keeper: Any) -> NodeSnapshot:
    """Of virtual addresses: g1 serves one IPv4 and the IPv6 address, g2 the other IPv4 address."""
    view = virtual.view(node)
    assert view.keeper is not None
    return replace(view, keeper=msgspec.structs.replace(view.keeper, **{"members": MEMBERS, **keeper}))


def without_master(view: NodeSnapshot) -> NodeSnapshot:
    assert view.keeper is not None
    states = tuple(
        msgspec.structs.replace(s, master="", epoch=0, reason="nobody asks") for s in view.keeper.egress
    )
    return replace(view, keeper=msgspec.structs.replace(view.keeper, egress=states))


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
    assert rows == {address: (master, 3, AT) for address, master in virtual.MASTERS.items()}
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
    conflict = Conflict(virtual.IDS[first], first, "02:00:00:00:00:01", "eth1", basic.AT)
    status, reason, message, _ = ready(only(seen(conflicts=(conflict,)), of("partner")))
    assert (status, reason) == ("False", "VirtualIPAnnouncingFailed")
    assert message == f"02:00:00:00:00:01 on eth1 claims {first} too"


def test_what_stands_there_is_not_written_again_and_keeps_its_time() -> None:
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
    assert list(reports(replace(view, keeper=None), [of("partner")], NOW)) == []


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


# --- Events ------------------------------------------------------------------------------------------------------


def changed(after: str, before: str = "g2", at: float = NOW) -> Change:
    first = next(iter(virtual.IDS.values()))
    return Change(first, before, after, 9, at, 120, "g2 was not heard")


def test_who_takes_over_tells_it_once() -> None:
    chronicle = EventSource(NOW - 5)
    assert chronicle.new_events(seen(changes=(changed("g1", at=NOW - 9),)), NOW) == []
    now = seen(changes=(changed("g1", at=NOW - 9), changed("g1")))
    [record] = chronicle.new_events(now, NOW)
    address = next(iter(virtual.IDS))
    text = f"master of {address}: g2 -> g1, epoch 9, silent for 120 ms (g2 was not heard)"
    key = f"master of {address}: g2 -> g1"
    kind = "EgressGateway", "partner", "MasterChanged"
    assert record == EventRecord(*kind, text, NOW, key=key, egress=virtual.IDS[address], epoch=9)
    assert chronicle.new_events(now, NOW) == []


def test_a_clock_that_was_set_back_hides_no_change() -> None:
    chronicle, first = EventSource(NOW - 5), changed("g1")
    chronicle.new_events(seen(changes=(first,)), NOW)
    later = seen(changes=(first, changed("", "g1", at=NOW - 3600)))
    assert [record.at for record in chronicle.new_events(later, NOW)] == [NOW - 3600]
    assert chronicle.new_events(later, NOW) == []


def test_others_do_not_tell_it() -> None:
    chronicle = EventSource(NOW - 5)
    chronicle.new_events(seen("g2"), NOW)
    assert chronicle.new_events(seen("g2", changes=(changed("g1"),)), NOW) == []


def test_who_lets_go_and_has_no_successor_tells_it() -> None:
    chronicle = EventSource(NOW - 5)
    chronicle.new_events(seen("g2"), NOW)
    [record] = chronicle.new_events(seen("g2", changes=(changed("", "g2"),)), NOW)
    assert (record.warning, "g2 -> none" in record.message) == (True, True)


def test_a_conflict_is_told_by_the_master_once() -> None:
    first = next(iter(virtual.IDS))
    conflict = Conflict(virtual.IDS[first], first, "02:00:00:00:00:01", "eth1", NOW)
    view = seen(conflicts=(conflict,))
    assert isinstance(view.keeper, KeeperState)
    own = msgspec.structs.replace
    states = tuple(
        own(state, state="master" if state.master == "g1" else "none") for state in view.keeper.egress
    )
    serving = replace(view, keeper=msgspec.structs.replace(view.keeper, egress=states))
    chronicle = EventSource(NOW - 5)
    assert [h.reason for h in chronicle.new_events(serving, NOW)] == ["AddressConflict"]
    assert chronicle.new_events(serving, NOW) == []
    assert EventSource(NOW - 5).new_events(view, NOW) == []


def test_becoming_unready_and_ready_again_is_told() -> None:
    good, bad = only(seen(), of("partner")), only(without_master(seen()), of("partner"))
    assert of_report(good, NOW) == []
    [lost] = of_report(replace(bad, before=good.status), NOW)
    assert (lost.reason, lost.warning) == ("ElectionFailed", True)
    [first] = of_report(bad, NOW)
    assert first.warning
    [again] = of_report(replace(good, before=bad.status), NOW)
    assert (again.reason, again.message, again.warning) == (
        "ElectionSucceedAndVirtualIPAnnounced", "ready again", False,
    )  # fmt: skip
    assert of_report(replace(bad, before=bad.status), NOW) == []


def test_a_node_that_was_away_does_not_tell_of_an_older_epoch() -> None:
    """It reports the loss when it knows of no newer master, and the API takes it later."""
    view = seen("g2", changes=(changed("", "g2", at=NOW),))
    [lost] = EventSource(NOW - 5).new_events(view, NOW)
    assert not is_outdated(lost, view)
    assert view.keeper is not None
    newer = tuple(msgspec.structs.replace(state, epoch=lost.epoch + 1) for state in view.keeper.egress)
    assert is_outdated(lost, replace(view, keeper=msgspec.structs.replace(view.keeper, egress=newer)))
    other = EventRecord("EgressGatewayPolicy", "both", "SelectsHostNetwork", "x", NOW)
    assert not is_outdated(other, view)
    alone = replace(view, plan=replace(view.plan, isolated=True))
    assert [is_due(record, alone) for record in (lost, other)] == [False, True]
    assert is_due(lost, view)


def test_a_keeper_that_has_just_started_makes_no_node_the_author() -> None:
    """It knows of no master yet, and would report that there is none."""
    fresh = replace(without_master(seen()), settled=False)
    assert (gateway_status_writer(fresh, "partner"), cluster_status_writer(fresh)) == ("", "")
    assert list(reports(fresh, [of("partner"), of("both", "EgressGatewayPolicy")], NOW)) == []


def test_a_repeated_event_is_counted() -> None:
    first = EventRecord("EgressGateway", "partner", "ElectionFailed", "no master", NOW)
    made = event(first, "egress-gateway.io/v1alpha1", "uid", "g1")
    assert repeated(made, first) is None
    again = replace(first, at=NOW + 60)
    assert event(again, "v", "uid", "g1")["metadata"] == made["metadata"]
    patch = repeated(made, again)
    at = event(again, "v", "uid", "g1")["lastTimestamp"]
    assert patch == {"count": 2, "message": "no master", "lastTimestamp": at}
    assert event(replace(first, message="other"), "v", "uid", "g1")["metadata"] != made["metadata"]


def test_a_keeper_that_has_just_learned_of_a_gateway_makes_no_node_the_author() -> None:
    """The inventory of its agent may come long after its start."""
    view = seen()
    assert view.keeper is not None
    unknown = replace(view, keeper=msgspec.structs.replace(view.keeper, egress=view.keeper.egress[1:]))
    assert (gateway_status_writer(view, "partner"), gateway_status_writer(unknown, "partner")) == ("g1", "")
    assert list(reports(unknown, [of("partner")], NOW)) == []


def test_a_master_that_changes_again_and_again_makes_no_event_for_each_change() -> None:
    """The messages differ: in the epoch, in the silence, in the reason."""
    made = {}
    for minute in range(100):
        chronicle, at = EventSource(NOW), NOW + 60 * minute + 1
        change = msgspec.structs.replace(
            changed("g1", at=at), epoch=9 + minute, silent_ms=minute, reason=f"{minute}"
        )
        lost = replace(only(without_master(seen()), of("partner")), before=only(seen(), of("partner")).status)
        [condition] = lost.status["conditions"]
        lost = replace(
            lost, status={**lost.status, "conditions": [{**condition, "message": f"unheard for {minute}"}]}
        )
        for record in (*chronicle.new_events(seen(changes=(change,)), at), *of_report(lost, at)):
            name = event(record, "v", "uid", "g1")["metadata"]["name"]
            standing = made.get(name)
            made[name] = (
                {**standing, **(repeated(standing, record) or {})}
                if standing
                else event(record, "v", "uid", "g1")
            )
    assert {(e["reason"], e["count"]) for e in made.values()} == {
        ("MasterChanged", 100),
        ("ElectionFailed", 100),
    }
    assert all("99" in e["message"] for e in made.values())


def test_an_event_as_the_api_has_it() -> None:
    record = EventRecord("EgressGateway", "a" * 253, "MasterChanged", "b" * 2000, NOW)
    made = event(record, "egress-gateway.io/v1alpha1", "uid", "g1")
    assert len(made["metadata"]["name"]) == 253
    assert made["metadata"] == event(record, "egress-gateway.io/v1alpha1", "uid", "g1")["metadata"]
    assert len(made["message"]) == 1024
    assert made["involvedObject"]["name"] == "a" * 253
    assert (made["type"], made["firstTimestamp"], made["source"]["host"]) == ("Normal", LATER, "g1")


@pytest.mark.parametrize(("why", "writer"), [(NO_MAJORITY, "w1"), ("eth1 is down", "g1")])
def test_a_worker_writes_where_no_egress_node_can(why: str, writer: str) -> None:
    members = tuple(MemberState(name, True, False, why, 40) for name in ("g1", "g2"))
    assert gateway_status_writer(without_master(seen("w1", members=members)), "partner") == writer
