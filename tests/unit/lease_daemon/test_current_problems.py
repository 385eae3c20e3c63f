"""Which problems a lease daemon's process tells, and until when."""

from __future__ import annotations

import asyncio
import selectors
import threading
from pathlib import Path

import msgspec

from gateway_agent.adapters.daemons.lease_client_ipc import LeaseDaemonClient
from gateway_agent.lease.ipc import LOCK, SOCKET, KeeperConfig, Peer
from gateway_agent.lease_daemon.daemon import LeaseDaemon
from gateway_agent.lease_daemon.daemon_lock import DaemonLock
from gateway_agent.lease_daemon.ipc_server import AgentConnections
from gateway_agent.lease_daemon.process import boottime
from gateway_agent.lease_daemon.unhandled_messages import UNHANDLED_NS

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


def test_a_daemon_that_cannot_be_configured_says_why_until_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = LeaseDaemonClient(tmp_path)
        client.send(configuration(tmp_path))
        states = client.states()
        first = asyncio.ensure_future(anext(states))
        async with asyncio.timeout(20):
            while "the cluster key cannot be read" not in client.failure:
                await asyncio.sleep(0.01)
            assert client.failure.startswith("the lease daemon runs and does not serve: ")
            assert not first.done()
            make_key(tmp_path)
            assert (await first).node == "g1"
        assert client.failure == ""
        await states.aclose()

    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(tmp_path, stop))
    thread.start()
    try:
        asyncio.run(scenario())
    finally:
        stop.set()
        thread.join()


def serve(run_dir: Path, stop: threading.Event) -> None:
    """Run the parts of a daemon's loop that serve agents."""
    selector = selectors.SelectSelector()
    daemon = make_daemon(run_dir, selector)
    while not stop.is_set():
        for key, _ in selector.select(0.05):
            key.data()
        for line in daemon._agents.lines():
            daemon._read_agents(line)
        if daemon._node is not None:
            daemon._send_state()
