"""A lease daemon in this process, with the configuration of an agent."""

from __future__ import annotations

import selectors
from pathlib import Path

import msgspec

from gateway_agent.lease.ipc import LOCK, SOCKET, KeeperConfig, Peer
from gateway_agent.lease_daemon.daemon import LeaseDaemon
from gateway_agent.lease_daemon.daemon_lock import DaemonLock
from gateway_agent.lease_daemon.ipc_server import AgentConnections

MILLISECOND = 1_000_000


def make_daemon(run_dir: Path, selector: selectors.BaseSelector) -> LeaseDaemon:
    agents = AgentConnections(run_dir / SOCKET, selector)
    return LeaseDaemon(run_dir, agents, selector, DaemonLock(run_dir / LOCK, wait=False), stays=True)


def configuration(run_dir: Path) -> KeeperConfig:
    """Return a configuration with which the daemon listens on no address; its key is not made."""
    peers = (Peer("g2", "10.0.0.2", True),)
    key = str(run_dir / "cluster.key")
    return KeeperConfig("g1", 7947, key, 50 * MILLISECOND, 250 * MILLISECOND, False, peers, ())


def make_key(run_dir: Path) -> None:
    key = run_dir / "cluster.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)


def started(run_dir: Path) -> LeaseDaemon:
    """Return a daemon that an agent has configured."""
    make_key(run_dir)
    daemon = make_daemon(run_dir, selectors.SelectSelector())
    daemon._read_agents(msgspec.json.encode(configuration(run_dir)))
    return daemon
