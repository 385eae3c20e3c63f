"""A run directory on a disk that is full: each writer names the path, and goes on or stops with a reason."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from cni.calls import attachments
from cni.calls.attachments import Attachment
from cni.plan import Plan
from gateway_agent.adapters.daemons import conntrackd_process
from gateway_agent.adapters.daemons.standby_daemon import MODULE
from gateway_agent.adapters.files import cluster_key
from gateway_agent.adapters.files.files_store import FilesStore
from gateway_agent.adapters.files.set_files import SetFiles
from gateway_agent.adapters.servers.agent_socket import RequestServer
from gateway_agent.agent.plan_file import PlanFile
from gateway_agent.kubernetes import last_known
from gateway_agent.lease.ipc import LOCK, SOCKET, STAY, KeeperConfig, KeeperState, Peer
from gateway_agent.manifest_sets import sets
from gateway_agent.policy.egress_node.sync_groups import Files
from tests.lab.waiting import until

PLAN = Plan("w1", 0x0FF00000, 4799, 1450)
RECORD = Attachment("c1", "eth0", "/run/netns/x", "veth1", "prod", "web-0", "u", {}, ("10.1.0.5",), 7, "pods")
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: prod}\n"


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=32,mode=700", "none", str(path)], check=True
        )

    def fill(self) -> None:
        """Leave no room for content."""
        with contextlib.suppress(OSError), (self.path / ".filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def fill_inodes(self) -> None:
        """Leave no room for files."""
        with contextlib.suppress(OSError):
            for number in range(64):
                (self.path / f".filler-{number}").touch()

    def clear(self) -> None:
        for path in self.path.glob(".filler*"):
            path.unlink()

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid():
        pytest.skip("needs root: to mount a file system")
    made = Disk(tmp_path / "run")
    yield made
    for process in psutil.process_iter(["cmdline"]):
        if str(made.path) in (process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    made.close()


async def listen(run_dir: Path) -> None:
    async def answer(request: bytes) -> bytes:
        return request

    await RequestServer(run_dir / "agent.sock", answer).start()


WRITERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "the record of a pod": (lambda d: attachments.write(d, RECORD), "attachments"),
    "the plan": (lambda d: PlanFile(d).write(PLAN), "plan.json"),
    "the key": (lambda d: cluster_key.make(d / "cluster.key"), "cluster.key"),
    "conntrackd's configuration": (
        lambda d: conntrackd_process.write_configuration(
            Files(*(str(d / name) for name in ("c.conf", "c.lock", "c.sock"))), "x" * 9000
        ),
        "c.conf",
    ),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("fill", [Disk.fill, Disk.fill_inodes], ids=["content", "files"])
def test_what_cannot_be_written_is_named_and_leaves_nothing(
    disk: Disk, name: str, fill: Callable[[Disk], None]
) -> None:
    write, path = WRITERS[name]
    (disk.path / "attachments").mkdir()
    fill(disk)
    before = set(disk.path.rglob("*"))
    with pytest.raises(OSError, match=f"No space left on device: '{disk.path}/.*") as refused:
        write(disk.path)
    assert refused.value.errno == errno.ENOSPC
    assert path in str(refused.value)
    left = set(disk.path.rglob("*")) - before - {disk.path / "c.conf"}
    assert not left
    disk.clear()
    write(disk.path)


@pytest.mark.parametrize("fill", [Disk.fill, Disk.fill_inodes], ids=["content", "files"])
@pytest.mark.parametrize("full", ["manifests", "state"])
def test_a_set_that_does_not_fit_changes_no_manifest(
    disk: Disk, tmp_path: Path, full: str, fill: Callable[[Disk], None]
) -> None:
    other = {"manifests": "state", "state": "manifests"}[full]
    (disk.path / full).mkdir()
    (tmp_path / other).mkdir()
    where = {full: disk.path / full, other: tmp_path / other}
    store = FilesStore(where["manifests"], tmp_path / "last-good")
    files = SetFiles(where["manifests"], where["state"], store.held)
    first = sets.made(1, "w1", {"a.yaml": NAMESPACE, "gone.yaml": NAMESPACE})
    second = sets.made(2, "w1", {"a.yaml": NAMESPACE + "# new\n" * 900, "come.yaml": NAMESPACE})
    asyncio.run(files.apply(first))
    before = {path: path.read_bytes() for path in where["manifests"].iterdir()}
    fill(disk)
    with pytest.raises(OSError, match="No space left on device") as refused:
        asyncio.run(files.apply(second))
    assert str(disk.path / full) in str(refused.value)
    assert {path: path.read_bytes() for path in where["manifests"].iterdir()} == before
    assert asyncio.run(files.read()).last == first
    disk.clear()
    asyncio.run(files.apply(second))
    assert asyncio.run(files.read()).files == dict(second.files)


def test_a_socket_that_cannot_be_made_is_named(disk: Disk) -> None:
    disk.fill_inodes()
    with pytest.raises(OSError, match=f"No space left on device: '{disk.path}/agent.sock'"):
        asyncio.run(listen(disk.path))


def test_the_files_store_goes_on_and_says_what_it_cannot_keep(disk: Disk, tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "a.yaml").write_text(NAMESPACE)
    os.utime(directory / "a.yaml", (1, 1))
    store = FilesStore(directory, disk.path / "last-good")
    disk.fill()
    inventory = store.read()
    assert inventory.namespaces == {"prod": {}}
    assert [f"No space left on device: '{disk.path}/last-good" in str(p) for p in inventory.problems] == [
        True
    ]
    assert store.read().problems == inventory.problems
    disk.clear()
    assert store.outdated(), "it tries again"
    assert store.read().problems == ()
    assert (disk.path / "last-good" / "a.yaml").read_text() == NAMESPACE
    assert not store.outdated()


def test_the_cluster_store_says_what_it_cannot_keep(disk: Disk) -> None:
    path = disk.path / "last-known.json"
    disk.fill()
    assert last_known.write(path, {}) == f"[Errno 28] No space left on device: '{path}'"
    disk.clear()
    assert last_known.write(path, {}) == ""


def state(run_dir: Path, agent: socket.socket) -> KeeperState:
    """Give a sign of life, and return what the keeper says to somebody who looks on."""
    peers = (Peer("w1", "127.0.0.1", False),)
    config = KeeperConfig("w1", 0, str(run_dir.parent / "key"), 50_000_000, 250_000_000, False, peers, ())
    agent.sendall(msgspec.json.encode(config) + b"\n")
    with socket.socket(socket.AF_UNIX) as looking:
        looking.connect(str(run_dir / SOCKET))
        looking.settimeout(5)
        return msgspec.json.decode(looking.makefile("rb").readline(), type=KeeperState)


def test_a_keeper_goes_on_and_names_what_it_cannot_write(disk: Disk) -> None:
    (disk.path.parent / "key").write_bytes(bytes(32))
    disk.fill()
    with subprocess.Popen(
        [sys.executable, "-m", MODULE, str(disk.path), STAY], stderr=subprocess.PIPE
    ) as keeper:
        try:
            with until(lambda: connected(disk.path), "it listens") as agent:
                for name in (LOCK, "voters.json"):
                    until(
                        lambda name=name: f"{disk.path / name}" in message(disk.path, agent),  # type: ignore[misc]
                        f"{name} is named",
                    )
                disk.clear()
                until(lambda: str(disk.path) not in message(disk.path, agent), "there is room again")
            assert (disk.path / LOCK).read_text().strip() == str(keeper.pid)
            assert keeper.poll() is None
        finally:
            keeper.send_signal(signal.SIGKILL)


def connected(run_dir: Path) -> socket.socket:
    agent = socket.socket(socket.AF_UNIX)
    try:
        agent.connect(str(run_dir / SOCKET))
    except OSError:
        agent.close()
        raise
    return agent


def message(run_dir: Path, agent: socket.socket) -> str:
    return "\n".join(state(run_dir, agent).problems)
