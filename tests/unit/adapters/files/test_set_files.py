"""The manifests of a node, replaced by a set: old or new, wherever it ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from gateway_agent.adapters.files import set_files
from gateway_agent.adapters.files.files_store import FilesStore
from gateway_agent.adapters.files.set_files import SetFiles
from gateway_agent.manifest_sets import sets
from gateway_agent.manifest_sets.acceptance import Local

OLD = {"a.yaml": "old a", "b.yaml": "same", "gone.yaml": "old"}
NEW = {"a.yaml": "new a", "b.yaml": "same", "come.yaml": "new"}
FIRST, SECOND = sets.made(1, "w1", OLD), sets.made(2, "w1", NEW)
MODULES = (set_files.__file__, "cni/files.py")


@contextlib.asynccontextmanager
async def free() -> AsyncIterator[None]:
    """Stand for a store that nobody reads."""
    yield


class Disk:
    """A store of manifests with the state directory of its node, and files that are none of a set's."""

    def __init__(self, directory: Path) -> None:
        self.manifests, self.state = directory / "manifests", directory / "state"
        self.files = SetFiles(self.manifests, self.state, free)
        self.files.replace(FIRST)
        (self.manifests / "notes.txt").write_text("mine")
        (self.manifests / "sub").mkdir()

    def local(self) -> Local:
        """Return what a process finds that has just started."""
        return asyncio.run(SetFiles(self.manifests, self.state, free).read())

    def names(self) -> set[str]:
        return {path.name for path in self.manifests.iterdir()}


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disk]:
    return (Disk(tmp_path / str(number)) for number in itertools.count())


class Crash(BaseException):
    """The end of the process: no handler of the code sees it."""


def crashing(line: int) -> Callable[[FrameType, str, Any], Any]:
    """Return a trace function that raises in front of the given line of these modules, counted from now on."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(MODULES):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                raise Crash
        return trace

    return trace


def crashes(action: Callable[[], object], line: int) -> bool:
    """Return True if the action ended in front of this line."""
    sys.settrace(crashing(line))
    try:
        action()
    except Crash:
        return True
    finally:
        sys.settrace(None)
    return False


def test_a_set_takes_the_place_of_the_files_and_of_no_others(disks: Iterator[Disk]) -> None:
    disk = next(disks)
    disk.files.replace(SECOND)
    assert disk.local() == Local(SECOND, NEW)
    assert disk.names() == {*NEW, "notes.txt", "sub"}
    assert (disk.manifests / "come.yaml").stat().st_mode & 0o777 == 0o644
    assert (disk.state / "manifests.applied").stat().st_mode & 0o777 == 0o600


def test_a_crash_in_front_of_any_line_leaves_the_old_or_the_new_set(disks: Iterator[Disk]) -> None:
    found = []
    for line in itertools.count():
        disk = next(disks)
        if not crashes(lambda disk=disk: disk.files.replace(SECOND), line):  # type: ignore[misc]
            break
        disk.files.recover()
        local = disk.local()
        assert local in (Local(FIRST, OLD), Local(SECOND, NEW)), line
        assert disk.names() - {"notes.txt", "sub"} == set(local.files)
        found.append(local.version.number)
    assert set(found) == {1, 2}
    assert found == sorted(found), "what has begun is finished"


def test_a_crash_while_it_is_finished_is_finished_by_the_next_start(disks: Iterator[Disk]) -> None:
    begun = next(disks)
    lines = next(line for line in itertools.count() if not crashes(lambda: begun.files.replace(SECOND), line))
    for first in range(lines // 2, lines, 19):
        for second in itertools.count():
            disk = next(disks)
            assert crashes(lambda disk=disk: disk.files.replace(SECOND), first)  # type: ignore[misc]
            if not crashes(disk.files.recover, second):
                break
            disk.files.recover()
            assert disk.local() in (Local(FIRST, OLD), Local(SECOND, NEW))


def test_a_set_of_what_is_there_already_writes_no_file(disks: Iterator[Disk]) -> None:
    disk = next(disks)
    before = {path.name: path.stat().st_ino for path in disk.manifests.iterdir()}
    disk.files.replace(sets.made(2, "w1", OLD))
    assert {path.name: path.stat().st_ino for path in disk.manifests.iterdir()} == before
    assert disk.local().version.number == 2


def test_a_directory_that_does_not_exist_is_made(tmp_path: Path) -> None:
    files = SetFiles(tmp_path / "deep" / "manifests", tmp_path / "state", free)
    assert asyncio.run(files.read()) == Local(None, {})
    assert files.recover() == ""
    files.replace(FIRST)
    assert asyncio.run(files.read()) == Local(FIRST, OLD)


def test_files_that_are_no_text_are_seen_and_a_link_is_replaced_not_followed(disks: Iterator[Disk]) -> None:
    disk = next(disks)
    (disk.manifests / "a.yaml").write_bytes(b"\xff")
    target = disk.state / "elsewhere.yaml"
    target.write_text("not ours")
    (disk.manifests / "come.yaml").symlink_to(target)
    assert disk.local().files == {**OLD, "a.yaml": None, "come.yaml": "not ours"}
    disk.files.replace(SECOND)
    assert disk.local() == Local(SECOND, NEW)
    assert target.read_text() == "not ours"


def test_a_state_file_that_is_no_set_counts_as_none(disks: Iterator[Disk]) -> None:
    disk = next(disks)
    (disk.state / "manifests.applied").write_bytes(b"\x93garbage")
    assert disk.local() == Local(None, OLD)


def test_the_store_reads_nothing_while_a_set_is_being_applied(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        store = FilesStore(tmp_path / "manifests", tmp_path / "last-good")
        (tmp_path / "manifests").mkdir()
        order: list[str] = []

        async def read() -> None:
            await store.current()
            order.append("read")

        async with store.held():
            reading = asyncio.create_task(read())
            await asyncio.sleep(0)
            order.append("applied")
        await reading
        return order

    assert asyncio.run(scenario()) == ["applied", "read"]
