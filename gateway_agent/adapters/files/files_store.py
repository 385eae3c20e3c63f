"""Read and watch the files store: a directory of YAML documents.

An object that is invalid or half written keeps its last good state and becomes a problem; so does a file that cannot be
read. Removing a file removes its objects. If the whole directory is missing or has become empty (an unmounted disk),
all objects are kept. The last good state is also stored in the run directory: otherwise a restart of the agent would
forget a policy that an edit has just broken, and its pods would leave by other addresses.

An editor empties a file before it writes it, or moves it away before it creates a new one. Read in between, the file's
policies would be missing. So a change counts only after the file has been unchanged for :data:`SETTLE_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import watchfiles

from cni.files import replace_file

from ...manifests import parsing
from ...manifests.model import Inventory, Problem

log = logging.getLogger(__name__)
SETTLE_S = 0.1
"""Seconds for which a file must have been unchanged, or missing, before its change counts."""
MAX_SETTLE_WAITS = 10
"""Waits of :data:`SETTLE_S` in one :meth:`FilesStore.current` for files that are being written."""
Stamp = tuple[int, int, int]
"""Modification time (ns), size (bytes) and inode: they identify one state of a file."""


class FilesStore:
    """The store: the files of one directory, without its subdirectories.

    ``last_good``: directory for copies of the last good states; it is created if it is missing.
    """

    def __init__(self, directory: Path, last_good: Path) -> None:
        self.directory = directory
        self.last_good = last_good
        self._stamps: dict[str, Stamp] = {}
        self._contents: dict[str, parsing.FileContent] = {}
        self._troubles: dict[str, Problem] = {}
        self._unkept: dict[str, Problem] = {}
        self._seen: dict[str, Stamp | None] = {}
        self._restless: set[str] = set()
        self._reading = asyncio.Lock()
        self._last: tuple[dict[str, parsing.FileContent], Inventory] | None = None
        """The contents that were assembled last, and the inventory that resulted."""

    async def inventories(self) -> AsyncIterator[Inventory]:
        """Yield the present inventory, then each changed one. Ends with the task that iterates."""
        last, trouble = None, ""
        async for _ in self._changes():
            try:
                inventory = await self.current()
            except OSError as error:
                if str(error) != trouble:
                    trouble = str(error)
                    log.error("%s", trouble)
                continue
            if inventory != last:
                last = inventory
                yield inventory

    async def current(self) -> Inventory:
        """Return the present inventory.

        Wait up to a second for files that are being written. Raises like :meth:`read`.
        """
        async with self._reading:
            inventory = await asyncio.to_thread(self.read)
            for _ in range(MAX_SETTLE_WAITS):
                if not self._restless:
                    break
                await asyncio.sleep(SETTLE_S)
                inventory = await asyncio.to_thread(self.read)
            return inventory

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Suspend reading within this context, in which a set of files is replaced as a whole."""
        async with self._reading:
            yield

    def errors(self) -> Mapping[str, int]:
        """Return nothing: files are read, not requested."""
        return {}

    async def for_pod(self, namespace: str, name: str, uid: str) -> Inventory | None:
        """Return an inventory for a starting pod, as :meth:`gateway_agent.manifests.store.Store.for_pod`."""
        # While another task reads, _seen is up to date already, but the inventory has not been yielded yet.
        return await self.current() if self._reading.locked() or self.outdated() else None

    def outdated(self) -> bool:
        """Return True if the directory has changed since it was last read. Costs one ``stat`` for each file."""
        try:
            return self._current_stamps() != self._seen
        except OSError:
            # A directory that cannot be listed cannot be read either, and keeps its last state.
            return False

    async def _changes(self) -> AsyncIterator[None]:
        while True:
            yield
            if not self.directory.is_dir():
                await asyncio.sleep(0.5)
                continue
            # The directory itself may be replaced (rename, mount): then awatch ends or fails, and is started again.
            # yield_on_timeout also covers changes between the first reading and the start of the watch.
            with contextlib.suppress(FileNotFoundError, OSError):
                async for _ in watchfiles.awatch(
                    self.directory,
                    recursive=False,
                    step=20,
                    debounce=100,
                    yield_on_timeout=True,
                    rust_timeout=500,
                ):
                    if not self.directory.is_dir():
                        break
                    yield

    def read(self) -> Inventory:
        """Read the files that have changed since the last call, and return the inventory.

        Never raises for the content of files. Raises OSError if the directory cannot be read and no earlier state is
        known: then it is unknown which pods are selected.
        """
        try:
            seen = self._current_stamps()
            rests = not _young(self.directory.stat())
        except OSError as error:
            return self._as_it_was(error.strerror or str(error))
        if not seen and self._known():
            return self._as_it_was("it holds no manifests any more")
        self._troubles.clear()
        self._restless.clear()
        gone = self._contents.keys() - seen.keys()
        if rests:
            for name in gone:
                del self._contents[name]
                self._stamps.pop(name, None)
                self._unkept.pop(name, None)
            self._forget_copies({Path(name).name for name in seen})
        else:
            self._restless.update(gone)
        for name in seen:
            self._read_file(Path(name))
        again = self._restless | self._unkept.keys()
        self._seen = {name: stamp for name, stamp in seen.items() if name not in again}
        return self._assembled()

    def _as_it_was(self, why: str) -> Inventory:
        hint = "store.path in the agent's configuration names the directory"
        trouble = Problem(str(self.directory), "", f"cannot be read: {why}", hint)
        if not self._known():
            raise OSError(str(trouble))
        self._troubles["."] = trouble
        return self._assembled()

    def _known(self) -> bool:
        """Return True if there is an earlier state, of this process or of an earlier one."""
        if not self._contents:
            with contextlib.suppress(OSError):
                for copy in self.last_good.iterdir():
                    name = str(self.directory / copy.name)
                    if not copy.name.startswith(".") and (content := self._copy(name)):
                        self._contents[name] = content
        return bool(self._contents)

    def _current_stamps(self) -> dict[str, Stamp | None]:
        """Return the stamps of the manifests by path; None for a dangling link. Raises OSError without a directory."""
        found: dict[str, Stamp | None] = {}
        for path in sorted(self.directory.iterdir()):
            if path.name.endswith(parsing.SUFFIXES) and not path.name.startswith("."):
                found[str(path)] = None
                with contextlib.suppress(OSError):
                    found[str(path)] = _stamp(path.stat())
        return found

    def _forget_copies(self, still_there: set[str]) -> None:
        with contextlib.suppress(OSError):
            for copy in self.last_good.iterdir():
                if copy.name not in still_there:
                    copy.unlink()

    def _copy(self, name: str) -> parsing.FileContent | None:
        """Return the last good state that an earlier process stored, under the name of the file; None without one."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return parsing.parse_file(name, self._copied(name))
        return None

    def _copied(self, name: str) -> str:
        return (self.last_good / Path(name).name).read_text(encoding="utf-8")

    def _keep_copy(self, name: str, text: str) -> None:
        path = self.last_good / Path(name).name
        try:
            self.last_good.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, text.encode(), 0o600, sync=False)
        except OSError as error:
            # A full disk prevents the copy, not the use of the file.
            hint = "the file is in force; if it becomes invalid, an agent that starts then lacks its last good state"
            self._unkept[name] = Problem(name, "", f"its last good state cannot be kept: {error}", hint)
        else:
            self._unkept.pop(name, None)

    def _read_file(self, path: Path) -> None:
        name = str(path)
        try:
            status = path.stat()
            stamp = _stamp(status)
            if self._stamps.get(name) == stamp and name not in self._unkept:
                return
            if self._is_restless(name, status):
                return
            if not stat.S_ISREG(status.st_mode):
                raise OSError("is no regular file")
            if status.st_size > parsing.MAX_FILE_BYTES:
                raise OSError(f"larger than {parsing.MAX_FILE_BYTES} bytes")
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8"
            self._troubles[name] = Problem(name, "", f"cannot be read: {why}")
            return
        self._stamps[name] = stamp
        content = parsing.parse_file(name, text)
        if content.broken:
            good = self._contents.get(name) or self._copy(name)
            if good is not None:
                content = parsing.repaired(content, good)
            before = ""
            with contextlib.suppress(OSError, UnicodeDecodeError):
                before = self._copied(name)
            self._keep_copy(name, parsing.readable(name, text, before))
        else:
            self._keep_copy(name, text)
        self._contents[name] = content

    def _assembled(self) -> Inventory:
        """Return the inventory of the files that were read; the same object as before if none has changed."""
        if self._last is None or not _same(self._last[0], self._contents):
            self._last = dict(self._contents), parsing.assemble(self._contents)
        inventory = self._last[1]
        troubles = tuple(found[name] for found in (self._troubles, self._unkept) for name in sorted(found))
        return parsing.with_problems(inventory, troubles) if troubles else inventory

    def _is_restless(self, name: str, status: os.stat_result) -> bool:
        """Return True if a file with an earlier state has just been written: then the earlier state stays in force."""
        if not _young(status):
            return False
        known = self._contents.get(name) or self._copy(name)
        if known is None:
            return False
        self._contents[name] = known
        self._restless.add(name)
        return True


def _same(before: Mapping[str, parsing.FileContent], now: Mapping[str, parsing.FileContent]) -> bool:
    """Return True if the files are the same, and none was read again."""
    return before.keys() == now.keys() and all(before[name] is content for name, content in now.items())


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _young(status: os.stat_result) -> bool:
    """Return True if the last change is younger than :data:`SETTLE_S`. A time in the future does not count as young."""
    return 0 <= time.time() - status.st_mtime < SETTLE_S


class NoReport:
    """A reporter that reports nothing: files have no status."""

    async def run(self) -> None:
        """Wait until cancelled."""
        await asyncio.Event().wait()

    async def leave(self) -> None:
        """Report nothing."""
