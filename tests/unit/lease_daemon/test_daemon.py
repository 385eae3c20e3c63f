"""The process of a lease daemon, as its agent sees it."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

from gateway_agent.adapters.daemons.lease_client_ipc import LeaseDaemonClient

from .small_daemon import configuration, make_daemon, make_key


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
        assert isinstance(states, AsyncGenerator)
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
