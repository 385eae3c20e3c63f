"""Failures of real lease daemons: who is master afterwards, and how soon."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

import pytest

from gateway_agent.lease.lifecycle import ORPHAN_NS
from tests.lab.waiting import until

from .keeper_cluster import PORT, Cluster, Node, cluster, shared

__all__ = ["cluster", "shared"]

LIMIT_MS = 400


def failover_ms(successor: Node, since: float) -> float:
    """From ``since`` (wall clock, seconds) to the moment at which the successor says it took over."""
    assert successor.state is not None
    return (successor.state.egress[0].since - since) * 1000


def test_the_keeper_shuts_others_out(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        for path in node.run_dir.iterdir():
            assert path.stat().st_mode & 0o077 == 0, path
        second = node.namespace.command(sys.executable, "-m", "gateway_agent.lease_daemon", str(node.run_dir))
        assert os.spawnvp(os.P_WAIT, second[0], second) == 3


def test_a_killed_master_is_replaced_in_time(cluster: Cluster) -> None:
    old = cluster.settled()
    killed = time.time()
    os.kill(old.pid(), signal.SIGKILL)
    took = failover_ms(cluster.another(old), killed)
    until(lambda: not old.namespace.pids(), "the killed keeper is gone")
    old.start()
    assert 0 < took < LIMIT_MS
    cluster.settled()


def test_what_a_keeper_logged_outlives_it(cluster: Cluster) -> None:
    """Also a message that it could not handle: it goes on, and says why."""
    node = cluster.nodes["g3"]
    log = node.run_dir / "keeper.log"
    with log.open("a") as file:
        file.write("why it ended\n")
    os.kill(node.pid(), signal.SIGKILL)
    until(lambda: not node.namespace.pids(), "the killed keeper is gone")
    node.start()
    cluster.settled()
    assert "why it ended\n" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_log_that_has_grown_is_put_aside(cluster: Cluster) -> None:
    node = cluster.nodes["g3"]
    log = node.run_dir / "keeper.log"
    os.truncate(log, 2 << 20)
    os.kill(node.pid(), signal.SIGKILL)
    until(lambda: not node.namespace.pids(), "the killed keeper is gone")
    node.start()
    cluster.settled()
    assert log.stat().st_size < 1 << 20
    assert log.with_name("keeper.log.1").stat().st_size == 2 << 20


def test_a_stopped_master_is_replaced_and_wakes_up_as_nothing(cluster: Cluster) -> None:
    old = cluster.settled()
    pid, stopped = old.pid(), time.time()
    os.kill(pid, signal.SIGSTOP)
    try:
        successor = cluster.another(old)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert 0 < failover_ms(successor, stopped) < LIMIT_MS
    assert cluster.settled() is successor


@pytest.mark.parametrize("hook", ["input", "output"])
def test_one_way_loss_gives_a_new_master_and_never_two(cluster: Cluster, hook: str) -> None:
    old = cluster.settled()
    cut = time.time()
    rules = f"add table inet cut; add chain inet cut c {{ type filter hook {hook} priority 0; }}; "
    old.namespace.run("nft", "-f", "-", text=f"{rules}add rule inet cut c udp dport {PORT} drop\n")
    try:
        successor = cluster.another(old)
        until(lambda: not old.is_master(), "the old one says that it is not", seconds=2)
        assert old.state is not None
        assert not any(change.after == old.name and change.at > cut for change in old.state.changes)
        assert 0 < failover_ms(successor, cut) < LIMIT_MS
    finally:
        old.namespace.run("nft", "delete", "table", "inet", "cut")
    assert cluster.settled() is successor


def test_a_restart_of_the_agent_moves_nothing(cluster: Cluster) -> None:
    master = cluster.settled()
    before, pid = master.egress(), master.pid()
    master.leave()
    gone = time.monotonic()
    until(
        lambda: time.monotonic() > gone + 2 and cluster_follows(cluster, master), "it is master on", seconds=5
    )
    master.connect()
    until(lambda: master.state and master.is_master(), "it says so")
    assert master.egress() == before
    assert master.pid() == pid


def test_agents_that_end_before_they_say_anything_are_signs_of_life_too(cluster: Cluster) -> None:
    """One that is killed again and again starts each time: what its node serves stays where it is."""
    master = cluster.settled()
    master.leave()
    gone = time.monotonic()

    def outlived() -> bool:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(str(master.run_dir / "keeper.sock"))
        assert cluster_follows(cluster, master)
        return time.monotonic() > gone + ORPHAN_NS / 1e9 + 2

    until(outlived, "longer than a keeper waits for its agent", seconds=20)
    master.connect()
    until(master.is_master, "it says so")


def cluster_follows(cluster: Cluster, master: Node) -> bool:
    others = [node for node in cluster.nodes.values() if node is not master]
    for node in others:
        node.send_config()
    return all(node.follows() == master.name for node in others)
