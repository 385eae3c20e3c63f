"""What a service manager receives, on a real socket."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_agent.adapters import service_manager
from gateway_agent.adapters.service_manager import READY, SOCKET, WATCHDOG_PID, WATCHDOG_USEC

TIMEOUT_US = 150_000


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(10)
        monkeypatch.setenv(SOCKET, str(tmp_path / "notify"))
        monkeypatch.delenv(WATCHDOG_PID, raising=False)
        yield listening


def test_a_state_arrives(manager: socket.socket) -> None:
    service_manager.notify(READY)
    assert manager.recv(4096) == b"READY=1"


def test_an_abstract_socket_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"egress-gateway-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(10)
        monkeypatch.setenv(SOCKET, f"@{name}")
        service_manager.notify(READY)
        assert listening.recv(4096) == b"READY=1"


def test_a_restart_in_place_has_the_time_at_which_it_began(manager: socket.socket) -> None:
    service_manager.reloading()
    state, time = manager.recv(4096).decode().split("\n")
    assert state == "RELOADING=1"
    assert time.removeprefix("MONOTONIC_USEC=").isdecimal()


@pytest.mark.parametrize("path", ["", "/nonexistent/notify"])
def test_without_a_service_manager_nothing_fails(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SOCKET, path)
    service_manager.notify(READY)


def test_the_event_loop_feeds_the_watchdog_and_a_loop_that_hangs_does_not(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WATCHDOG_USEC, str(TIMEOUT_US))
    manager.setblocking(False)

    async def scenario() -> None:
        feeding = asyncio.create_task(service_manager.feed_watchdog())
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(4):
            assert await loop.sock_recv(manager, 4096) == b"WATCHDOG=1"
        # Three intervals lie between four feeds.
        assert loop.time() - began >= 0.9 * TIMEOUT_US / 1e6
        # The loop's own thread waits here, so the loop does not run.
        assert select.select([manager], [], [], 2 * TIMEOUT_US / 1e6) == ([], [], [])
        feeding.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize(("timeout", "pid"), [("", ""), ("soon", ""), ("0", ""), (str(TIMEOUT_US), "1")])
def test_a_process_without_a_watchdog_feeds_none(
    manager: socket.socket, timeout: str, pid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog of another process, as of the parent that has left its variables, is not fed either."""
    monkeypatch.setenv(WATCHDOG_USEC, timeout)
    monkeypatch.setenv(WATCHDOG_PID, pid)

    async def scenario() -> None:
        feeding = asyncio.create_task(service_manager.feed_watchdog())
        await asyncio.sleep(0)
        assert not feeding.done()
        feeding.cancel()

    asyncio.run(scenario())
    assert select.select([manager], [], [], 0) == ([], [], [])
