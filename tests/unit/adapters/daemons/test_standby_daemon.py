"""Real keepers without a configuration: they hold their run directory and touch nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from gateway_agent.adapters.daemons.lease_client_ipc import LeaseDaemonClient
from gateway_agent.adapters.daemons.standby_daemon import MODULE, StandbyDaemon
from gateway_agent.lease.ipc import LOCK, LOG, SOCKET, STAY, WAIT, KeeperConfig, Peer
from gateway_agent.lease_daemon.daemon_lock import NAME
from tests.lab.waiting import until


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for process in processes(tmp_path):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def processes(run_dir: Path) -> list[psutil.Process]:
    """Return the processes for a directory. ``info`` has what was read of each: it may have ended since."""
    found = psutil.process_iter(["cmdline", "ppid"])
    return [process for process in found if str(run_dir) in (process.info["cmdline"] or ())]


def standbys(run_dir: Path) -> list[psutil.Process]:
    """Return those that wait: one that has begun is not the child of this process any more."""
    found = processes(run_dir)
    return [p for p in found if WAIT in p.info["cmdline"] and p.info["ppid"] == os.getpid()]


def standby_of(run_dir: Path) -> psutil.Process:
    """Return the one that waits. The kernel shows no command line of a process that is just being started."""
    [waiting] = until(lambda: standbys(run_dir), "the standby has begun to run")
    return waiting


def pid(run_dir: Path) -> int:
    """Of the keeper that holds the directory and answers there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(run_dir / SOCKET))

    def written() -> int:
        # It listens before it goes into the background, and only there it has the id that it writes.
        text = (run_dir / LOCK).read_text().strip()
        return int(text) if text and psutil.pid_exists(int(text)) else 0

    return until(written, "the daemon has written its process id", 10)


def run_scenario(run_dir: Path, scenario: Callable[[StandbyDaemon], Awaitable[None]]) -> None:
    async def whole() -> None:
        standby = StandbyDaemon(run_dir)
        try:
            await scenario(standby)
        finally:
            await standby.close()

    asyncio.run(whole())


def test_a_standby_holds_nothing_until_it_is_the_keeper(run_dir: Path) -> None:
    async def scenario(standby: StandbyDaemon) -> None:
        await standby.prepare()
        await standby.prepare()
        waiting = await asyncio.to_thread(standby_of, run_dir)
        assert list(run_dir.iterdir()) == []
        await standby.begin()
        keeper = psutil.Process(pid(run_dir))
        assert WAIT in keeper.cmdline()
        assert not waiting.is_running()

    run_scenario(run_dir, scenario)


def test_without_a_standby_it_begins_all_the_same(run_dir: Path) -> None:
    async def scenario(standby: StandbyDaemon) -> None:
        await standby.prepare()
        (await asyncio.to_thread(standby_of, run_dir)).kill()
        await asyncio.to_thread(until, lambda: not standbys(run_dir), "the standby is gone")
        await standby.begin()
        assert WAIT not in psutil.Process(pid(run_dir)).cmdline()

    run_scenario(run_dir, scenario)


def test_the_next_one_takes_the_place_of_one_that_was_killed(run_dir: Path) -> None:
    async def scenario(standby: StandbyDaemon) -> None:
        await standby.begin()
        first = pid(run_dir)
        await standby.prepare()
        os.kill(first, signal.SIGKILL)
        await asyncio.to_thread(until, lambda: not psutil.pid_exists(first), "the first is gone")
        await standby.begin()
        assert pid(run_dir) != first

    run_scenario(run_dir, scenario)


def test_only_one_holds_the_directory(run_dir: Path) -> None:
    async def scenario(standby: StandbyDaemon) -> None:
        await standby.begin()
        first = pid(run_dir)
        await standby.prepare()
        with pytest.raises(OSError, match="exit code 3"):
            await standby.begin()
        assert pid(run_dir) == first

    run_scenario(run_dir, scenario)


def test_socket_lock_and_memory_are_made_again_in_an_emptied_directory(run_dir: Path) -> None:
    async def scenario(standby: StandbyDaemon) -> None:
        await standby.begin()
        with configure(run_dir) as agent:
            first, agent_inode = pid(run_dir), (run_dir / LOCK).stat().st_ino
            await asyncio.to_thread(until, (run_dir / "voters.json").exists, "it has written its memory")
            memory = (run_dir / "voters.json").read_bytes()
            shutil.rmtree(run_dir)
            await asyncio.to_thread(until, lambda: pid(run_dir) == first, "it can be reached again")
            assert (run_dir / LOCK).stat().st_ino != agent_inode
            with (run_dir / LOCK).open() as lock, pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert (run_dir / "voters.json").read_bytes() == memory
            assert "was gone: listening there again" in (run_dir / LOG).read_text()
            assert {p.stat().st_mode & 0o777 for p in run_dir.iterdir()} == {0o600}
            agent.settimeout(5)
            assert agent.recv(1), "the agent that was connected still is"

    run_scenario(run_dir, scenario)


def test_two_keepers_never_run_whenever_the_directory_is_emptied(run_dir: Path) -> None:
    """Nothing of the first one is left when the second one looks, at several moments of its second."""

    async def scenario(standby: StandbyDaemon) -> None:
        await standby.begin()
        with configure(run_dir) as agent:
            first = pid(run_dir)
            for _ in range(6):
                await standby.prepare()
                keep_alive(agent, run_dir)
                for path in run_dir.iterdir():
                    path.unlink()
                with pytest.raises(OSError, match="exit code 3"):
                    await standby.begin()
                running = [p.pid for p in processes(run_dir) if p.info["ppid"] != os.getpid()]
                assert running == [first]
            await asyncio.to_thread(until, lambda: pid(run_dir) == first, "it can be reached again")

    run_scenario(run_dir, scenario)


def test_another_users_process_with_the_name_keeps_no_keeper_from_running(run_dir: Path) -> None:
    """Two kinds: one that says whose it is, and one that hides."""
    if os.geteuid():
        pytest.skip("needs root: to be another user")
    name = NAME + hashlib.blake2b(bytes((run_dir / LOCK).absolute()), digest_size=16).hexdigest().encode()
    for listens in (True, False):
        program = (
            f"import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.bind({name!r});"
            f"{'s.listen();' if listens else ''} print('bound', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            try:
                assert other.stdout
                assert other.stdout.readline() == b"bound\n"
                run_scenario(run_dir, StandbyDaemon.begin)
                holder = pid(run_dir)
                os.kill(holder, signal.SIGKILL)
                until(lambda holder=holder: not psutil.pid_exists(holder), "it is gone")  # type: ignore[misc]
            finally:
                other.kill()


def test_a_standby_ends_with_its_agent(run_dir: Path) -> None:
    async def scenario() -> None:
        await StandbyDaemon(run_dir).prepare()
        await asyncio.Event().wait()

    agent = os.fork()
    if not agent:
        asyncio.run(scenario())
    until(lambda: [p for p in processes(run_dir) if p.info["ppid"] == agent], "the agent has a standby")
    os.kill(agent, signal.SIGKILL)
    os.waitpid(agent, 0)
    until(lambda: not processes(run_dir), "the standby has ended")


def staying(run_dir: Path) -> subprocess.Popen[bytes]:
    """Return a keeper as a container runs it."""
    return subprocess.Popen([sys.executable, "-m", MODULE, str(run_dir), STAY], stderr=subprocess.PIPE)


def configure(run_dir: Path) -> socket.socket:
    """As an agent does; returns when the keeper has followed."""
    (run_dir / "cluster.key").write_bytes(bytes(32))
    agent = socket.socket(socket.AF_UNIX)
    agent.connect(str(run_dir / SOCKET))
    keep_alive(agent, run_dir)
    assert agent.recv(1)
    return agent


def configuration(run_dir: Path) -> KeeperConfig:
    key, peers = str(run_dir / "cluster.key"), (Peer("w1", "127.0.0.1", False),)
    return KeeperConfig("w1", 0, key, 50_000_000, 250_000_000, False, peers, ())


def keep_alive(agent: socket.socket, run_dir: Path) -> None:
    agent.sendall(msgspec.json.encode(configuration(run_dir)) + b"\n")


def test_one_that_stays_waits_for_its_turn(tmp_path: Path) -> None:
    directory = tmp_path / "made"
    first, second = staying(directory), staying(directory)
    try:
        until(lambda: pid(directory), "one of them listens")
        holder, waiting = (first, second) if pid(directory) == first.pid else (second, first)
        # No agent has ever told it anything: there is nothing to hand over.
        holder.terminate()
        assert holder.wait(10) == 0
        until(lambda: pid(directory) == waiting.pid, "the other one has its place")
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def test_one_that_stays_and_serves_ends_with_a_sigterm_when_all_is_handed_over(run_dir: Path) -> None:
    process = staying(run_dir)
    try:
        until(lambda: pid(run_dir), "it listens")
        with configure(run_dir):
            process.terminate()
            assert process.wait(10) == 0
        assert not (run_dir / SOCKET).exists()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("listens", [True, False], ids=["it listens then", "it does not"])
def test_another_daemon_was_quicker_to_lock_the_directory(run_dir: Path, listens: bool) -> None:
    async def whole() -> None:
        connecting = asyncio.create_task(LeaseDaemonClient(run_dir)._connect())
        while not processes(run_dir):
            await asyncio.sleep(0.001)
        if listens:
            async with await asyncio.start_unix_server(lambda reader, writer: None, run_dir / SOCKET):
                await connecting
        else:
            with pytest.raises(OSError, match="could not be started: exit code 3"):
                await connecting

    lock = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asyncio.run(whole())
    finally:
        os.close(lock)


def test_an_agent_waits_for_a_keeper_that_is_to_come(run_dir: Path) -> None:
    """For the first one, and for the next one when that has died: another program starts them."""

    async def whole() -> None:
        client = LeaseDaemonClient(run_dir, start_timeout=60)
        for _ in range(2):
            connecting = asyncio.create_task(client._connect())
            await asyncio.sleep(0)
            process = staying(run_dir)
            try:
                await connecting
                assert pid(run_dir) == process.pid
            finally:
                process.kill()
                process.wait()
            client._close()

    asyncio.run(whole())


def test_a_daemon_that_is_gone_is_named_until_another_one_runs_and_then_for_a_while(run_dir: Path) -> None:
    async def whole() -> None:
        client = LeaseDaemonClient(run_dir, start_timeout=60)
        process = staying(run_dir)
        following = asyncio.ensure_future(anext(client.states()))
        try:
            await becomes(lambda: client._writer is not None)
            assert client.failure == ""
            process.kill()
            await becomes(lambda: "and none has taken its place yet: it gave no reason" in client.failure)
            staying(run_dir)
            await becomes(lambda: "another one has taken its place: it gave no reason" in client.failure)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    asyncio.run(whole())


def test_a_daemon_that_cannot_be_started_is_named(run_dir: Path) -> None:
    async def whole() -> None:
        client = LeaseDaemonClient(run_dir)
        following = asyncio.ensure_future(anext(client.states()))
        try:
            await becomes(
                lambda: "no lease daemon runs: it could not be started: exit code 3" in client.failure
            )
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    lock = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asyncio.run(whole())
    finally:
        os.close(lock)


async def becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("timeout", "stopping"), [(0.2, False), (600, True)], ids=["in vain", "stopping"])
def test_an_agent_that_need_not_wait_longer_starts_a_keeper(
    run_dir: Path, timeout: float, stopping: bool
) -> None:
    """An agent that stops does not wait: its process is about to end."""

    async def whole() -> None:
        client = LeaseDaemonClient(run_dir, timeout)
        client.send(msgspec.structs.replace(configuration(run_dir), stopping=stopping))
        async with asyncio.timeout(60):
            await client._connect()
        client._close()

    asyncio.run(whole())
    assert pid(run_dir)
