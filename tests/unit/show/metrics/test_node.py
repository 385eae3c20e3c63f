"""The numbers of an agent, and of its node's kernel: each moves when what it measures happens."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import msgspec
import pytest

from cni.kernel import ids
from cni.version import VERSION
from gateway_agent.adapters.servers.metrics_answers import PAGES
from gateway_agent.connection_log.report import Report
from gateway_agent.histogram import Histogram
from gateway_agent.lease.ipc import Conflict, Heartbeats, KernelFailures
from gateway_agent.manifests.model import Fault, Problem
from gateway_agent.show.metrics.families import Observation, families
from gateway_agent.show.metrics.node_counters import DeviceCounters, NodeCounters
from gateway_agent.show.snapshot import NodeSnapshot

from .test_families import ADDRESSES, AT_S, FIRST, MAC, PODS, change, keeper, samples, value, view


def of_worker(seen: NodeSnapshot) -> NodeSnapshot:
    """Return the same as a node sees it that is no egress node."""
    return replace(seen, plan=replace(seen.plan, node="w1"))


def names(seen: NodeSnapshot) -> set[str]:
    return {family.name for family in families(Observation("w1", seen)) if family.samples}


def test_the_version_is_a_label() -> None:
    assert value(Observation("g1", None), "build_info", version=VERSION) == 1


def test_faults_are_those_of_the_verdict_and_those_that_are_not_there_are_0() -> None:
    problems = (Problem("a", "", "x", kind=Fault.OBJECT), Problem("b", "", "y", kind=Fault.OBJECT))
    seen = Observation("g1", replace(view(), problems=problems))
    assert value(seen, "faults", fault="invalid_object") == 2
    assert value(seen, "faults", fault="no_master") == 1, "one of the three has none"
    assert value(seen, "faults", fault="member") == 1
    assert value(seen, "faults", fault="plugin") == 0
    assert len([name for name, _ in samples(seen) if name.endswith("_faults")]) == len(Fault)


def test_rounds() -> None:
    seen = Observation("g1", view(), applied_at=AT_S, rounds_failed=3)
    assert value(seen, "last_round_timestamp_seconds") == AT_S
    assert value(seen, "rounds_failed_total") == 3


def test_calls_by_command_and_code() -> None:
    calls = {
        ("ADD", 0): Histogram((0.1, 1.0)).plus(0.5).plus(0.05),
        ("ADD", 11): Histogram((0.1, 1.0)).plus(8),
    }
    seen = Observation("g1", view(), calls=calls)
    name = "cni_call_duration_seconds"
    assert value(seen, f"{name}_count", command="ADD", code="0") == 2
    assert value(seen, f"{name}_sum", command="ADD", code="0") == 0.55
    assert value(seen, f"{name}_bucket", command="ADD", code="0", le="0.1") == 1
    assert value(seen, f"{name}_bucket", command="ADD", code="11", le="1.0") == 0
    assert value(seen, f"{name}_bucket", command="ADD", code="11", le="+Inf") == 1


def test_pods_of_a_policy() -> None:
    labels = {"policy": "plain", "gateway": "plain"}
    assert value(Observation("g1", view()), "policy_pods", **labels) == len(PODS)
    empty = replace(view(), attachments=())
    assert value(Observation("g1", empty), "policy_pods", **labels) == 0, "an egress node names each policy"
    assert "egress_gateway_policy_pods" not in names(of_worker(empty)), "a worker only those with pods"
    assert "egress_gateway_policy_pods" in names(of_worker(view()))


def test_numbers_of_the_mark() -> None:
    seen = Observation("g1", view())
    assert value(seen, "mark_numbers", of="egress_ips") == 1
    assert value(seen, "mark_numbers", of="policy_sets") == 1
    assert value(seen, "mark_numbers_limit", of="egress_ips") == 126, "mask 0x0ff00000"
    assert value(seen, "mark_numbers_limit", of="policy_sets") == 255


def test_traffic_of_an_egress_ip_and_the_connection_table() -> None:
    device = next(egress.device for egress in view().plan.egress_ips if egress.id == FIRST)
    traffic = DeviceCounters(100, 200, 1, 2, 3, 4)
    counters = NodeCounters({device: traffic, "egw-back": traffic}, 50, 1000, 7)
    seen = Observation("g1", view(), kernel=counters)
    of = {"gateway": "partner", "ip": ADDRESSES[0]}
    sent, received = {**of, "direction": "sent"}, {**of, "direction": "received"}
    assert [value(seen, "tunnel_bytes_total", **labels) for labels in (sent, received)] == [100, 200]
    assert [value(seen, "tunnel_packets_total", **labels) for labels in (sent, received)] == [1, 2]
    assert [value(seen, "tunnel_dropped_packets_total", **labels) for labels in (sent, received)] == [3, 4]
    entries = ("conntrack_entries", "conntrack_entries_limit", "conntrack_refused_total")
    assert [value(seen, name) for name in entries] == [50, 1000, 7]
    assert [value(Observation("g1", view()), name) for name in entries] == [None] * 3, (
        "the kernel says nothing"
    )


def test_a_worker_does_not_export_what_egress_nodes_know() -> None:
    only_egress = {"isolated", "master", "takeover_silence_seconds"}
    assert {f"egress_gateway_{name}" for name in only_egress}.isdisjoint(names(of_worker(view())))


def rich() -> Observation:
    """Return an observation with a sample of every metric."""
    conflict = Conflict(FIRST, ADDRESSES[0], MAC, "eth1", AT_S)
    failures = (KernelFailures(ADDRESSES[0], "announce", 3),)
    state = keeper((change(silent_ms=212),), conflicts=(conflict,), failures=failures)
    first = msgspec.structs.replace(state.egress[0], margin_ms=87)
    state = msgspec.structs.replace(state, egress=(first, *state.egress[1:]), heartbeats=Heartbeats(9, 2))
    seen = view(state)
    traffic = {egress.device: DeviceCounters() for egress in seen.plan.egress_ips}
    calls = {("ADD", 0): Histogram((0.1, 1.0)).plus(0.5)}
    refused = {(ids.NFT_FENCE, "allow4"): 1}
    return Observation(
        "g1", seen, "the agent is stopping", calls=calls, kernel=NodeCounters(traffic, 1, 2, 3, refused),
        api_errors={"pods": 3}, connection_log=Report(9, 1, 2),
    )  # fmt: skip


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is in Debian's package prometheus")
def test_promtool_finds_nothing() -> None:
    text = PAGES["/metrics"](rich()).text
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_lines_of_the_connection_log() -> None:
    seen = Observation("g1", view(), connection_log=Report(lines=9, lost=1, unwritten=2))
    assert value(seen, "connection_log_lines_total", result="written") == 9
    assert value(seen, "connection_log_lines_total", result="unwritten") == 2
    assert value(seen, "connection_log_lost_events_total") == 1


def test_failed_requests_to_the_api() -> None:
    seen = Observation("g1", view(), api_errors={"pods": 3, "nodes": 0})
    assert value(seen, "api_errors_total", resource="pods") == 3
    assert value(seen, "api_errors_total", resource="nodes") == 0
