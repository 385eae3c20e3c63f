"""What a monitoring system sees of the agents, over HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cni.kernel import ids

from ..lab import documents, topology
from ..lab.lab import SELECTED, Lab
from ..lab.namespace import CommandFailed
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.waiting import until
from .conftest import GATEWAY, settled
from .metric_values import LISTEN, asked, total, value

ADDRESS = "172.16.0.50"
LABELS = {"gateway": GATEWAY, "ip": ADDRESS}


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([ADDRESS], GATEWAY)
    with settled("test_metrics", topology.separate(workers=1), objects=objects) as made:
        yield made


def test_the_page_of_each_node_shows_the_whole_group(lab: Lab) -> None:
    """Each node that is asked for its page asks the others, and they are well."""

    def shown(node: Node) -> bool:
        return asked(node, "/")[1].count("<p class='good'>OK</p>") == len(lab.nodes)

    for node in lab.nodes.values():
        until(partial(shown, node), "all are shown")


def test_the_numbers_are_those_of_status(lab: Lab, pod: Pod, master: Node) -> None:
    for node in lab.nodes.values():
        [egress] = node.agent.status()["egressIPs"]
        serving = None if node.name == "w1" else float(node.name == master.name)
        assert value(node, "master", node=node.name, **LABELS) == serving, "a worker never serves"
        assert value(node, "master_known", **LABELS) == 1
        assert value(node, "epoch", **LABELS) == egress["epoch"]
        assert value(node, "pods", **LABELS) == egress["pods"] == (node.name == "w1")
        assert value(node, "egress_ip_info", master=master.name, shown=ADDRESS, **LABELS) == 1
        assert value(node, "problems") == len(node.agent.status()["problems"])
        assert [value(node, name) for name in ("agent_ready", "drained")] == [1, 0]
        assert value(node, "isolated") == (None if node.name == "w1" else 0)
        calls = value(node, "cni_call_duration_seconds_count", command="ADD", code="0")
        assert bool(calls) == (node.name == "w1")
        assert time.time() - (value(node, "last_round_timestamp_seconds") or 0) < 60
        assert [value(node, "member_ready", member=name) for name in ("g1", "g2", "g3")] == [1, 1, 1]
        assert value(node, "voters") == 3
        assert (value(node, "messages_total", result="accepted") or 0) > 0


def test_health_readiness_status_and_page(lab: Lab, master: Node) -> None:
    for node in lab.nodes.values():
        assert asked(node, "/healthz") == asked(node, "/readyz") == (200, "ok\n")
        code, text = asked(node, "/status")
        assert (code, json.loads(text).keys()) == (200, node.agent.status().keys())
        code, page = asked(node, "/")
        assert code == 200
        assert f"<td>{ADDRESS}</td><td>{master.name}</td>" in page
        assert asked(node, "/elsewhere")[0] == 404


def test_numbers_move_with_what_they_measure(lab: Lab, pod: Pod, master: Node) -> None:
    worker = lab.nodes["w1"]

    def traffic() -> list[float]:
        """Return packets and bytes into the tunnel, and out of it on the master."""
        ends = ((worker, "sent"), (master, "received"))
        names = ("tunnel_packets_total", "tunnel_bytes_total")
        return [value(node, name, direction=way, **LABELS) or 0 for node, way in ends for name in names]

    before, beats = traffic(), value(master, "heartbeats_sent_total") or 0
    assert pod.request(SELECTED).address == ADDRESS
    for was, now in zip(before, traffic(), strict=True):
        assert now > was
    until(lambda: (value(master, "heartbeats_sent_total") or 0) >= beats + 10, "heartbeats go on")
    assert value(worker, "heartbeats_sent_total") is None, "a worker sends none"
    assert 0 < (value(master, "lease_margin_seconds", **LABELS) or 0) < 1
    assert (value(worker, "conntrack_entries") or 0) > 0
    assert value(worker, "policy_pods", gateway=GATEWAY) == 1
    assert value(worker, "mark_numbers", of="egress_ips") == 1
    assert value(worker, "faults", fault="no_master") == 0
    assert value(worker, "refused_packets_total", reason="no_master") == 0


def test_a_change_of_master_is_counted_and_its_silence_measured(lab: Lab, pod: Pod, master: Node) -> None:
    worker = lab.nodes["w1"]
    before = value(worker, "master_changes_total", **LABELS)
    assert before is not None
    lab.cut(master.name)
    try:
        until(lambda: lab.master(GATEWAY, "w1") not in ("", master.name), "another one serves")
        successor = lab.nodes[lab.master(GATEWAY, "w1")]
        until(lambda: value(successor, "master", **LABELS) == 1, "it says so")
        assert (value(worker, "master_changes_total", **LABELS) or 0) > before
        assert 0 < (value(worker, "last_change_silence_seconds", **LABELS) or 0) < 5
        silences = value(successor, "takeover_silence_seconds_count", planned="false", **LABELS)
        assert (silences or 0) >= 1
        until(lambda: value(master, "isolated") == 1, "the old one is isolated")
        assert value(master, "master", **LABELS) == 0
        until(lambda: value(worker, "member_alive", member=master.name) == 0, "the old one is not heard")
    finally:
        lab.mend(master.name)


def test_packets_without_a_master_are_counted(lab: Lab, pod: Pod) -> None:
    worker, cut = lab.nodes["w1"], [name for name in lab.nodes if name != "w1"]
    lab.wait_settled(GATEWAY)
    for name in cut:
        lab.cut(name)
    try:
        until(lambda: value(worker, "master_known", **LABELS) == 0, "the worker knows none", 10)

        def counted() -> bool:
            with pytest.raises(OSError):
                pod.request(SELECTED, seconds=0.5)
            return (value(worker, "refused_packets_total", reason="no_master") or 0) > 0

        until(counted, "refused packets are counted", 10)
        assert value(worker, "faults", fault="no_master") == 1
        assert value(worker, "member_unready_info", member=cut[0], reason="silent") == 1
    finally:
        for name in cut:
            lab.mend(name)
    lab.wait_settled(GATEWAY)


def test_a_planned_change_is_counted_as_planned(lab: Lab, master: Node) -> None:
    successor = next(node for node in lab.nodes.values() if node.host.is_egress and node.name != master.name)

    def planned() -> float:
        return value(successor, "takeover_silence_seconds_count", planned="true", **LABELS) or 0

    before = planned()
    lab.nodes["w1"].egressctl("handover", GATEWAY, "--to", successor.name)
    until(lambda: planned() > before, "the planned change is counted", 10)


def test_a_round_that_fails_is_counted(lab: Lab) -> None:
    """A directory in the place of the plan cannot be written."""
    worker, plan = lab.nodes["w1"], lab.nodes["w1"].agent.run_dir / "plan.json"
    before = value(worker, "rounds_failed_total")
    assert before is not None
    kept = plan.read_bytes()
    plan.unlink()
    plan.mkdir()
    try:
        lab.publish("more", [documents.policy("more", GATEWAY, {"app": "more"})])
        until(lambda: (value(worker, "rounds_failed_total") or 0) > before, "failed rounds are counted", 10)
    finally:
        plan.rmdir()
        plan.write_bytes(kept)
        lab.publish("more", [])
    until(lambda: value(worker, "agent_ready") == 1, "rounds succeed again", 10)
    lab.wait_settled(GATEWAY)


def test_packets_that_a_tunnel_drops_are_counted(lab: Lab, pod: Pod, master: Node) -> None:
    """Without the entry that names the master's node, the tunnel has no destination."""
    worker = lab.nodes["w1"]

    def dropped() -> float:
        return value(worker, "tunnel_dropped_packets_total", direction="sent", **LABELS) or 0

    before = dropped()
    device = ids.device(ids.vni(ids.egress_id(GATEWAY, ADDRESS)))

    def lost() -> bool:
        with contextlib.suppress(CommandFailed):
            entries = worker.machine.run("bridge", "fdb", "show", "dev", device).splitlines()
            for mac in {entry.split()[0] for entry in entries}:
                worker.machine.run("bridge", "fdb", "del", mac, "dev", device)
        with contextlib.suppress(OSError):
            pod.datagram(SELECTED, seconds=0.05)
        return dropped() > before

    until(lost, "dropped packets are counted", 20)
    lab.wait_settled(GATEWAY)


def test_connections_without_an_entry_are_counted(lab: Lab) -> None:
    """A rule of another program leaves one port to two connections with one destination, which does not answer."""
    worker, absent = lab.nodes["w1"], "203.0.113.99"
    rules = "add table ip site; add chain ip site out { type nat hook postrouting priority srcnat; }; "
    rules += f"add rule ip site out tcp dport 4455 snat to {worker.host.ip}:5000"
    before = value(worker, "conntrack_refused_total")
    assert before is not None
    worker.machine.run("nft", rules)
    try:
        with (
            worker.machine.socket(socket.AF_INET, socket.SOCK_STREAM) as one,
            worker.machine.socket(socket.AF_INET, socket.SOCK_STREAM) as other,
        ):
            for each in (one, other):
                each.setblocking(False)
                each.connect_ex((absent, 4455))
            until(lambda: (value(worker, "conntrack_refused_total") or 0) > before, "it is counted", 10)
    finally:
        worker.machine.run("nft", "delete", "table", "ip", "site")


def test_failures_of_the_kernel_are_counted(lab: Lab, master: Node) -> None:
    """Another program removes the fence, which the lease daemon is about to open."""
    before = total(master, "kernel_failures_total")

    def failed() -> bool:
        with contextlib.suppress(CommandFailed):
            master.machine.run("nft", "delete", "table", "netdev", ids.NFT_FENCE)
        return total(master, "kernel_failures_total") > before

    until(failed, "failures are counted", 20)
    lab.wait_settled(GATEWAY)


def test_a_drained_node_says_so(master: Node) -> None:
    master.egressctl("drain")
    try:
        assert (value(master, "drained"), value(master, "master", **LABELS)) == (1, 0)
        assert asked(master, "/readyz")[0] == 200
    finally:
        master.egressctl("undrain")
    assert value(master, "drained") == 0


def test_another_machine_with_the_address_is_there_with_its_mac(lab: Lab, master: Node) -> None:
    stranger, interface = lab.machines["lan"], "br-egress"
    [link] = json.loads(stranger.run("ip", "-j", "link", "show", "dev", interface))
    stranger.ip(f"address add {ADDRESS}/32 dev {interface}")
    try:
        stranger.run("arping", "-U", "-c", "2", "-I", interface, ADDRESS)
        until(
            lambda: value(master, "conflict", ip=ADDRESS, mac=link["address"], interface="eth1"), "it is told"
        )
        assert link["address"] in asked(master, "/")[1]
    finally:
        stranger.ip(f"address del {ADDRESS}/32 dev {interface}")
    assert (value(master, "problems") or 0) > 0


def test_a_restart_in_place_listens_at_once(lab: Lab, pod: Pod, master: Node) -> None:
    """Also with a client that is still connected, and no change is counted twice."""
    client = master.machine.socket(socket.AF_INET, socket.SOCK_STREAM)
    with client:
        client.connect(LISTEN)
        master.agent.restart()
        until(lambda: asked(master, "/readyz")[0] == 200, "it is ready", 5)
    log = master.agent.log.read_text()
    assert "cannot listen" not in log
    assert value(master, "master", **LABELS) == 1
    assert value(master, "master_changes_total", **LABELS) == 0


def test_a_port_in_use_breaks_nothing(lab: Lab, pod: Pod, master: Node) -> None:
    master.agent.kill()
    with master.machine.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(LISTEN)
        other.listen()
        master.agent.start()
        message = "cannot listen on 127.0.0.1:9479: Address already in use"

        def reported() -> bool:
            return any(message in problem["message"] for problem in master.agent.status()["problems"])

        until(reported, "status tells")
        assert message in master.agent.log.read_text()
        assert lab.wait_settled(GATEWAY) == master.name
        assert pod.request(SELECTED).address == ADDRESS
    until(lambda: asked(master, "/readyz")[0] == 200, "it listens when it can", 5)
    assert not reported()
