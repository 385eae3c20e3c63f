"""The service runs until a signal, hands over if it stops, and ends if a part of it fails."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway_agent.running import Service

TIMEOUT_S = 30.0


class World:
    """An agent, its server and a service manager that write down what is asked of them."""

    path = Path("/run/agent.sock")
    node = "n1"

    def __init__(self, directory: Path, fault: Exception | None = None) -> None:
        self.log: list[str] = []
        self._fault = fault
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(directory / "notify"))
        self._manager.setblocking(False)

    def watch(self) -> None:
        self.log.append("watch")

    def tasks(self) -> tuple[Coroutine[Any, Any, None], ...]:
        return (self._work(),)

    async def _work(self) -> None:
        if self._fault:
            raise self._fault
        try:
            await asyncio.Event().wait()
        finally:
            self.log.append("part ended")

    async def start(self) -> None:
        self.log.append("serve")

    async def stop(self) -> None:
        self.log.append("stop")

    async def leave(self) -> None:
        self.log.append("leave")

    def reported(self) -> list[str]:
        """Return the states that the service manager got, by their first words."""
        states = []
        while True:
            try:
                states.append(self._manager.recv(4096).decode().partition("\n")[0])
            except BlockingIOError:
                return states

    def close(self) -> None:
        self._manager.close()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    world = World(tmp_path)
    yield world
    world.close()


def run(world: World, *numbers: signal.Signals, can_restart: bool = True) -> bool:
    """Run the service. It gets these signals, one after the other, as soon as it serves."""

    async def send() -> None:
        while "serve" not in world.log:
            await asyncio.sleep(0)
        for number in numbers:
            os.kill(os.getpid(), number)
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    async def served() -> bool:
        service = Service(world, world, (send(),), world.leave)
        async with asyncio.timeout(TIMEOUT_S):
            return await service.until_signal(lambda: can_restart)

    return asyncio.run(served())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_hands_over_before_the_socket_closes(world: World, number: signal.Signals) -> None:
    assert run(world, number) is False
    # The agent stops, then the objects of the API are left, then the server stops.
    assert world.log == ["watch", "serve", "stop", "leave", "stop", "part ended"]
    assert world.reported() == ["READY=1", "STOPPING=1"]


def test_a_restart_hands_nothing_over(world: World) -> None:
    assert run(world, signal.SIGHUP) is True
    assert world.log == ["watch", "serve", "stop", "part ended"]
    assert world.reported() == ["READY=1", "RELOADING=1"]


def test_a_restart_that_could_not_start_is_passed_over(world: World) -> None:
    assert run(world, signal.SIGHUP, signal.SIGTERM, can_restart=False) is False
    assert "leave" in world.log
    assert world.reported() == ["READY=1", "STOPPING=1"]


def test_the_first_of_two_signals_counts(world: World) -> None:
    assert run(world, signal.SIGHUP, signal.SIGTERM) is True
    assert "leave" not in world.log


def test_a_part_that_fails_ends_the_service_with_its_error_and_hands_nothing_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    world = World(tmp_path, OSError("the store is gone"))
    with pytest.raises(OSError, match="the store is gone"):
        run(world)
    # Leases of a failed agent stay for the next one: the lease daemon goes on for a while.
    assert "leave" not in world.log
    assert world.log[-1] == "stop", "the server"
    world.close()
