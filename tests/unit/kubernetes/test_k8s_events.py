"""The Events of Kubernetes: each change once, repetitions counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway_agent.kubernetes.k8s_events import (
    EventRecord,
    EventSource,
    event,
    is_due,
    is_outdated,
    of_report,
    repeated,
)
from gateway_agent.lease.ipc import Change, Conflict, KeeperState
from gateway_agent.policy.pods.unattached_pods import BesideLog, StartedBeside

from ..show import test_status_virtual as virtual
from .test_conditions import LATER, NOW, of, only, seen, without_master


def changed(after: str, before: str = "g2", at: float = NOW) -> Change:
    first = next(iter(virtual.IDS.values()))
    return Change(first, before, after, 9, at, 120, "g2 was not heard")


def test_the_new_master_reports_the_change_once() -> None:
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


@pytest.mark.parametrize("held", [True, False])
def test_a_pod_beside_the_plugin_is_an_event_of_its_node_once(held: bool) -> None:
    chronicle = EventSource(NOW - 5)
    one = StartedBeside("prod", "web-0", "uid", NOW, held)
    view = replace(seen(), started_beside=BesideLog().plus(one))
    [record] = chronicle.new_events(view, NOW)
    assert (record.kind, record.name, record.reason) == ("Node", view.plan.node, "PodBesidePlugin")
    assert record.message.startswith("pod prod/web-0 started beside the plugin")
    assert ("may have left" in record.message) is record.warning is not held
    assert chronicle.new_events(view, NOW) == []


def test_a_clock_that_was_set_back_hides_no_change() -> None:
    chronicle, first = EventSource(NOW - 5), changed("g1")
    chronicle.new_events(seen(changes=(first,)), NOW)
    later = seen(changes=(first, changed("", "g1", at=NOW - 3600)))
    assert [record.at for record in chronicle.new_events(later, NOW)] == [NOW - 3600]
    assert chronicle.new_events(later, NOW) == []


def test_others_do_not_report_it() -> None:
    chronicle = EventSource(NOW - 5)
    chronicle.new_events(seen("g2"), NOW)
    assert chronicle.new_events(seen("g2", changes=(changed("g1"),)), NOW) == []


def test_a_master_without_a_successor_reports_its_release() -> None:
    chronicle = EventSource(NOW - 5)
    chronicle.new_events(seen("g2"), NOW)
    [record] = chronicle.new_events(seen("g2", changes=(changed("", "g2"),)), NOW)
    assert (record.warning, "g2 -> none" in record.message) == (True, True)


def test_a_conflict_is_reported_by_the_master_once() -> None:
    first = next(iter(virtual.IDS))
    conflict = Conflict(virtual.IDS[first], first, "02:00:00:00:00:01", "eth1", NOW)
    view = seen(conflicts=(conflict,))
    assert isinstance(view.lease_daemon, KeeperState)
    own = msgspec.structs.replace
    states = tuple(
        own(state, state="master" if state.master == "g1" else "none") for state in view.lease_daemon.egress
    )
    serving = replace(view, lease_daemon=msgspec.structs.replace(view.lease_daemon, egress=states))
    chronicle = EventSource(NOW - 5)
    assert [h.reason for h in chronicle.new_events(serving, NOW)] == ["AddressConflict"]
    assert chronicle.new_events(serving, NOW) == []
    assert EventSource(NOW - 5).new_events(view, NOW) == []


def test_becoming_unready_and_ready_again_is_reported() -> None:
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


def test_a_node_that_was_away_does_not_report_an_older_epoch() -> None:
    """It reports the loss when it knows of no newer master, and the API takes it later."""
    view = seen("g2", changes=(changed("", "g2", at=NOW),))
    [lost] = EventSource(NOW - 5).new_events(view, NOW)
    assert not is_outdated(lost, view)
    assert view.lease_daemon is not None
    newer = tuple(msgspec.structs.replace(state, epoch=lost.epoch + 1) for state in view.lease_daemon.egress)
    assert is_outdated(
        lost, replace(view, lease_daemon=msgspec.structs.replace(view.lease_daemon, egress=newer))
    )
    other = EventRecord("EgressGatewayPolicy", "both", "SelectsHostNetwork", "x", NOW)
    assert not is_outdated(other, view)
    alone = replace(view, plan=replace(view.plan, isolated=True))
    assert [is_due(record, alone) for record in (lost, other)] == [False, True]
    assert is_due(lost, view)


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


def test_a_master_that_changes_again_and_again_makes_no_event_for_each_change() -> None:
    """The messages differ: in the epoch, in the silence, in the reason."""
    made: dict[str, dict[str, Any]] = {}
    for minute in range(100):
        chronicle, at = EventSource(NOW), NOW + 60 * minute + 1
        change = msgspec.structs.replace(
            changed("g1", at=at), epoch=9 + minute, silent_ms=minute, reason=f"{minute}"
        )
        lost = replace(only(without_master(seen()), of("partner")), before=only(seen(), of("partner")).status)
        [condition] = lost.status["conditions"]
        lost = replace(
            lost, status={**lost.status, "conditions": [{**condition, "message": f"silent for {minute}"}]}
        )
        for record in (*chronicle.new_events(seen(changes=(change,)), at), *of_report(lost, at)):
            name = event(record, "v", "uid", "g1")["metadata"]["name"]
            shared = made.get(name)
            made[name] = (
                {**shared, **(repeated(shared, record) or {})} if shared else event(record, "v", "uid", "g1")
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
