"""Which problems a lease daemon's process tells, and until when."""

from __future__ import annotations

import selectors
from pathlib import Path

import msgspec

from gateway_agent.lease.ipc import LOCK, SOCKET, KeeperConfig, Peer
from gateway_agent.lease_daemon.daemon import LeaseDaemon
from gateway_agent.lease_daemon.daemon_lock import DaemonLock
from gateway_agent.lease_daemon.ipc_server import AgentConnections
from gateway_agent.lease_daemon.process import boottime
from gateway_agent.lease_daemon.unhandled_messages import UNHANDLED_NS

MILLISECOND = 1_000_000


def started(run_dir: Path) -> LeaseDaemon:
    """Return a daemon that an agent has configured; it listens on no address."""
    key = run_dir / "cluster.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    selector = selectors.SelectSelector()
    agents = AgentConnections(run_dir / SOCKET, selector)
    daemon = LeaseDaemon(run_dir, agents, selector, DaemonLock(run_dir / LOCK, wait=False), stays=True)
    peers = (Peer("g2", "10.0.0.2", True),)
    config = KeeperConfig("g1", 7947, str(key), 50 * MILLISECOND, 250 * MILLISECOND, False, peers, ())
    daemon._read_agents(msgspec.json.encode(config))
    return daemon


def test_a_message_that_could_not_be_handled_is_a_problem_for_a_stated_time(tmp_path: Path) -> None:
    daemon = started(tmp_path)
    assert daemon._current_problems(boottime()) == ()
    assert daemon._node is not None
    endpoint = daemon._node.endpoint
    # A fault of ours, whatever the message.
    del daemon._node.endpoint
    daemon._receive([(b"anything", "10.0.0.2")])
    daemon._node.endpoint = endpoint
    now = boottime()
    [text] = daemon._current_problems(now)
    assert text.startswith("a message from 10.0.0.2 could not be handled: AttributeError")
    assert daemon._current_problems(now + UNHANDLED_NS) == ()
