"""Real keepers without a configuration: they hold their run directory and touch nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gateway_agent.core.keeping import LOCK, SOCKET, WAIT
from gateway_agent.shell.spare import Spare
from tests.lab.waiting import until


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for process in processes(tmp_path):
        process.kill()


def processes(run_dir: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if str(run_dir) in (p.info["cmdline"] or ())]


def spares(run_dir: Path) -> list[psutil.Process]:
    """Those that wait: one that has begun is not the child of this process any more."""
    return [p for p in processes(run_dir) if WAIT in p.cmdline() and p.ppid() == os.getpid()]


def pid(run_dir: Path) -> int:
    """Of the keeper that holds the directory and answers there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(run_dir / SOCKET))
    return int((run_dir / LOCK).read_text())


def story(run_dir: Path, tell: Callable[[Spare], Awaitable[None]]) -> None:
    async def whole() -> None:
        spare = Spare(run_dir)
        try:
            await tell(spare)
        finally:
            await spare.close()

    asyncio.run(whole())


def test_a_spare_holds_nothing_until_it_is_the_keeper(run_dir: Path) -> None:
    async def tell(spare: Spare) -> None:
        await spare.prepare()
        await spare.prepare()
        [waiting] = spares(run_dir)
        assert list(run_dir.iterdir()) == []
        await spare.begin()
        keeper = psutil.Process(pid(run_dir))
        assert WAIT in keeper.cmdline()
        assert not waiting.is_running()

    story(run_dir, tell)


def test_without_a_spare_it_begins_all_the_same(run_dir: Path) -> None:
    async def tell(spare: Spare) -> None:
        await spare.prepare()
        spares(run_dir)[0].kill()
        await asyncio.to_thread(until, lambda: not spares(run_dir), "the spare is gone")
        await spare.begin()
        assert WAIT not in psutil.Process(pid(run_dir)).cmdline()

    story(run_dir, tell)


def test_the_next_one_takes_the_place_of_one_that_was_killed(run_dir: Path) -> None:
    async def tell(spare: Spare) -> None:
        await spare.begin()
        first = pid(run_dir)
        await spare.prepare()
        os.kill(first, signal.SIGKILL)
        await asyncio.to_thread(until, lambda: not psutil.pid_exists(first), "the first is gone")
        await spare.begin()
        assert pid(run_dir) != first

    story(run_dir, tell)


def test_only_one_holds_the_directory(run_dir: Path) -> None:
    async def tell(spare: Spare) -> None:
        await spare.begin()
        first = pid(run_dir)
        await spare.prepare()
        with pytest.raises(OSError, match="exit code 3"):
            await spare.begin()
        assert pid(run_dir) == first

    story(run_dir, tell)


def test_a_spare_ends_with_its_agent(run_dir: Path) -> None:
    async def tell() -> None:
        await Spare(run_dir).prepare()
        await asyncio.Event().wait()

    agent = os.fork()
    if not agent:
        asyncio.run(tell())
    until(lambda: [p for p in processes(run_dir) if p.ppid() == agent], "the agent has a spare")
    os.kill(agent, signal.SIGKILL)
    os.waitpid(agent, 0)
    until(lambda: not processes(run_dir), "the spare has ended")
