"""The numbers of one node."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from cni.calls.attachments import Attachment
from cni.kernel import ids
from cni.plan import PodIdentity, Requirement, Selector
from gateway_agent.lease.ipc import Change, Conflict, EgressState, KeeperState, KernelFailures, MemberState
from gateway_agent.manifests.model import BASIC, VIRTUAL_IP, Gateway, Inventory, Node, Policy, Problem
from gateway_agent.policy import planner
from gateway_agent.policy.egress_node.readiness import InterfaceFacts
from gateway_agent.policy.pods.unattached_pods import BesideLog, StartedBeside
from gateway_agent.show.metrics.families import ChangeCount, Observation, families
from gateway_agent.show.metrics.form import PREFIX
from gateway_agent.show.snapshot import NodeSnapshot

AT_S = 1795294800.0
ADDRESSES = ("172.16.0.50", "172.16.0.78")
MAC = "02:00:00:00:00:66"
EGRESS = (Requirement("role", "In", ("egress",)),)
ALL = (Selector((Requirement("app", "In", ("backend",)),)),)
INVENTORY = Inventory(
    (Gateway("partner", EGRESS, VIRTUAL_IP, addresses=ADDRESSES), Gateway("plain", EGRESS, BASIC, "eth1")),
    (Policy("plain", "plain", ALL, ("198.51.100.0/24",)),),
    (Node("g1", {"role": "egress"}, ("10.0.0.7",)), Node("g2", {"role": "egress"}, ("10.0.0.8",))),
)
FIRST, SECOND = (ids.egress_id("partner", address) for address in ADDRESSES)
PLAIN = ids.egress_id("plain", "")
PODS = tuple(PodIdentity("prod", f"web-{number}", {"app": "backend"}) for number in range(9))


def change(
    identity: str = FIRST, after: str = "g1", epoch: int = 3, at: float = AT_S, silent_ms: int = 0
) -> Change:
    return Change(identity, "", after, epoch, at, silent_ms, "")


def keeper(changes: Iterable[Change] = (), **more: Any) -> KeeperState:
    return KeeperState(
        "g1", 1,
        (
            EgressState(FIRST, "g1", 3, AT_S, "master", "", ADDRESSES[0]),
            EgressState(SECOND, "g2", 7, AT_S, "standby", "", ADDRESSES[1]),
            EgressState(PLAIN, "", 5, 0, "standby", "no node is ready"),
        ),
        (MemberState("g1", True, True, "", 0), MemberState("g2", False, True, "silent for 999 ms", 999)),
        ("g1", "g2", "w1"), 2, False, {"accepted": 9, "bad_mac": 1}, tuple(changes), **more,
    )  # fmt: skip


def view(state: KeeperState | None = None) -> NodeSnapshot:
    state = state or keeper()
    masters = {e.id: (e.master, e.epoch) for e in state.egress}
    facts = {
        "eth1": InterfaceFacts(up=True, carrier=True, mtu=1500, addresses=("172.16.0.7/24",), forwarding=True)
    }
    settings = planner.Settings("g1", 0x0FF00000, 4799, 1450)
    plan = planner.build(INVENTORY, settings, facts, masters, pods=PODS).plan
    group = next(s.group for s in plan.policy_sets)
    attachments = tuple(
        Attachment(
            f"c-{p.name}", "eth0", "", f"veth-{p.name}", "prod", p.name, "", dict(p.labels or {}), (), group
        )
        for p in PODS
    )
    return NodeSnapshot(plan, INVENTORY, attachments, state, problems=(Problem("a.yaml", "spec", "is bad"),))


def samples(seen: Observation) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = [(f.name + s.suffix, s) for f in families(seen) for s in f.samples]
    rows = [((name, frozenset(s.labels.items())), float(s.value)) for name, s in found]
    by_series = dict(rows)
    assert len(by_series) == len(rows), "each series once"
    return by_series


def value(seen: Observation, name: str, **labels: str) -> float | None:
    return samples(seen).get((PREFIX + name, frozenset({"node": "g1", **labels}.items())))


def of_egress(seen: Observation, name: str) -> list[float | None]:
    return [
        value(seen, name, gateway="partner", ip=ADDRESSES[0]),
        value(seen, name, gateway="partner", ip=ADDRESSES[1]),
        value(seen, name, gateway="plain", ip=""),
    ]


def test_egress_ips() -> None:
    seen = Observation("g1", view(), changes={SECOND: 4})
    assert of_egress(seen, "master") == [1, 0, 0]
    assert of_egress(seen, "master_known") == [1, 1, 0]
    assert of_egress(seen, "epoch") == [3, 7, 5]
    assert of_egress(seen, "pods") == [0, 0, len(PODS)]
    assert of_egress(seen, "master_changes_total") == [0, 4, 0]
    assert of_egress(seen, "last_change_silence_seconds") == [None, None, None]


def test_the_silence_is_that_of_the_last_change_to_a_master() -> None:
    changes = (
        change(silent_ms=999),
        change(silent_ms=212, epoch=4),
        change(after="", epoch=4),
        change(PLAIN),
    )
    seen = Observation("g1", view(keeper(changes)))
    assert of_egress(seen, "last_change_silence_seconds") == [0.212, None, 0]


def test_who_is_master_and_what_the_outside_sees_are_labels() -> None:
    plain = EgressState(PLAIN, "g2", 6, AT_S, "standby", "", "172.16.0.8")
    state = keeper()
    seen = Observation("g1", view(msgspec.structs.replace(state, egress=(*state.egress[:2], plain))))
    labels = {"gateway": "plain", "ip": "", "mode": BASIC, "master": "g2", "shown": "172.16.0.8"}
    assert value(seen, "egress_ip_info", **labels) == 1
    labels = {
        "gateway": "partner",
        "ip": ADDRESSES[0],
        "mode": VIRTUAL_IP,
        "master": "g1",
        "shown": ADDRESSES[0],
    }
    assert value(seen, "egress_ip_info", **labels) == 1


def test_the_lease_daemon() -> None:
    seen = Observation("g1", view(), drained=True)
    assert [value(seen, name) for name in ("isolated", "voters", "voter_set")] == [0, 3, 2]
    assert [value(seen, "member_alive", member=name) for name in ("g1", "g2")] == [1, 0]
    assert [value(seen, "member_ready", member=name) for name in ("g1", "g2")] == [1, 0]
    assert [value(seen, "messages_total", result=name) for name in ("accepted", "bad_mac")] == [9, 1]
    assert [value(seen, name) for name in ("drained", "problems", "agent_ready")] == [1, 1, 1]


def test_reasons_are_labels_while_something_is_not_ready() -> None:
    state = keeper()
    down = MemberState("g1", True, False, "interface eth1 has no carrier", 0)
    seen = Observation(
        "g1", view(msgspec.structs.replace(state, members=(down, state.members[1]))), "no plan yet"
    )
    assert value(seen, "agent_unready_info", reason="no plan yet") == 1
    assert value(seen, "member_unready_info", member="g1", reason="interface eth1 has no carrier") == 1
    assert value(seen, "member_unready_info", member="g2", reason="silent") == 1
    well = samples(Observation("g1", view()))
    assert not [name for name, _ in well if name == f"{PREFIX}agent_unready_info"]
    assert len([name for name, _ in well if name == f"{PREFIX}member_unready_info"]) == 1


def test_a_conflict_is_there_with_its_mac() -> None:
    conflict = Conflict(FIRST, ADDRESSES[0], MAC, "eth1", AT_S)
    seen = Observation("g1", view(keeper(conflicts=(conflict,))))
    assert value(seen, "conflict", ip=ADDRESSES[0], mac=MAC, interface="eth1") == 1
    assert not [key for key in samples(Observation("g1", view())) if key[0] == f"{PREFIX}conflict"]


def test_what_the_kernel_did_not_do_is_counted_for_each_address() -> None:
    failures = (KernelFailures(ADDRESSES[0], "announce", 3), KernelFailures("", "ticket", 1))
    seen = Observation("g1", view(keeper(failures=failures)))
    assert value(seen, "kernel_failures_total", ip=ADDRESSES[0], what="announce") == 3
    assert value(seen, "kernel_failures_total", ip="", what="ticket") == 1


def test_before_the_store_and_the_keeper_have_spoken() -> None:
    seen = Observation("g1", None, "the agent is starting")
    names = (
        "agent_ready",
        "agent_unready_info",
        "drained",
        "build_info",
        "last_round_timestamp_seconds",
        "rounds_failed_total",
    )
    assert {name for name, _ in samples(seen)} == {f"{PREFIX}{name}" for name in names}
    assert value(seen, "agent_ready") == 0
    silent = Observation("g1", replace(view(), lease_daemon=None))
    assert value(silent, "isolated") is None
    assert of_egress(silent, "master") == [0, 0, 0]


def test_pods_beside_the_plugin_are_counted() -> None:
    log = BesideLog()
    for number, held in enumerate((True, False, True)):
        log = log.plus(StartedBeside("prod", f"web-{number}", "uid", 0.0, held))
    seen = Observation("g1", replace(view(), started_beside=log))
    assert value(seen, "pods_beside_plugin_total", packets="held") == 2
    assert value(seen, "pods_beside_plugin_total", packets="loose") == 1


def test_names_and_bounds() -> None:
    found = families(Observation("g1", view()))
    assert len({f.name for f in found}) == len(found)
    for family in found:
        assert re.fullmatch(rf"{PREFIX}[a-z_]+", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.help
    few = Observation("g1", replace(view(), attachments=view().attachments[:1]))
    assert samples(few).keys() == samples(Observation("g1", view())).keys(), "a pod makes no series"


def test_changes_are_counted_once() -> None:
    count = ChangeCount(since=AT_S)
    count.observe(None)
    assert count.totals() == {}
    before, first = change(at=AT_S - 9), change(at=AT_S + 1)
    count.observe(keeper([before, first]))
    assert count.totals() == {FIRST: 1}, "what was before this process is not its to count"
    count.observe(keeper([before, first]))
    assert count.totals() == {FIRST: 1}
    # The clock was set back, and the oldest change has been forgotten.
    count.observe(keeper([first, change(at=AT_S - 3600, epoch=4), change(SECOND, at=AT_S - 3599)]))
    assert count.totals() == {FIRST: 2, SECOND: 1}


@pytest.mark.parametrize("rounds", [1, 5])
def test_more_changes_than_the_keeper_keeps_are_counted(rounds: int) -> None:
    count = ChangeCount(since=0)
    everything = [change(epoch=number, at=AT_S + number) for number in range(rounds * 50)]
    for end in range(50, len(everything) + 1, 50):
        count.observe(keeper(everything[max(0, end - 100) : end]))
    assert count.totals() == {FIRST: rounds * 50}


def test_a_new_keeper_has_a_new_history() -> None:
    count = ChangeCount(since=AT_S)
    count.observe(keeper([change(at=AT_S + 1), change(at=AT_S + 2, epoch=4)]))
    count.observe(keeper([]))
    count.observe(keeper([change(at=AT_S + 3, epoch=5)]))
    assert count.totals() == {FIRST: 3}


def test_silences_are_counted_by_planned_and_unplanned() -> None:
    count = ChangeCount(since=AT_S)
    moved = [
        Change(FIRST, "g2", "g1", 3, AT_S + 1, 261, "its lease ended"),
        Change(FIRST, "g1", "", 4, AT_S + 2, 900, "nobody took over"),
        Change(FIRST, "g1", "g2", 4, AT_S + 3, 0, "drained", planned=True),
        Change(SECOND, "", "g2", 1, AT_S + 4, 0, "first master"),
    ]
    count.observe(keeper(moved))
    seen = Observation("g1", view(), changes=count.totals(), silences=count.silences())
    name, labels = "takeover_silence_seconds", {"gateway": "partner", "ip": ADDRESSES[0]}
    assert value(seen, f"{name}_count", **labels, planned="false") == 1
    assert value(seen, f"{name}_sum", **labels, planned="false") == 0.261
    assert value(seen, f"{name}_bucket", **labels, planned="false", le="0.25") == 0
    assert value(seen, f"{name}_bucket", **labels, planned="false", le="0.3") == 1
    assert value(seen, f"{name}_bucket", **labels, planned="false", le="+Inf") == 1
    assert value(seen, f"{name}_bucket", **labels, planned="true", le="0.0") == 1
    labels["ip"] = ADDRESSES[1]
    assert value(seen, f"{name}_count", **labels, planned="false") == 0, "the first master ends no silence"
