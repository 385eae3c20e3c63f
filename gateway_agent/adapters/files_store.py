"""The files store: a directory of YAML documents, watched.

An object that is wrong or half written keeps its last good state and is reported, and so does a file of which nothing
can be read; a file that is gone takes its objects with it. A directory that is gone altogether or has become empty (an
unmounted disk) keeps everything. What was read well lies in the run directory too: else a restart of the agent would
forget the policy that somebody has just broken, and let its pods out.

An editor empties a file before it writes it, or moves it away before it makes a new one. Read in between, its policies
would be gone and their pods let out. So what has changed a moment ago counts only when it has come to rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import watchfiles

from cni.files import named

from ..manifests import parsing
from ..manifests.model import Inventory, Problem

log = logging.getLogger(__name__)
SETTLE_S = 0.1
"""Seconds that a file must have been left alone, or have been gone, before the state that is known of it changes."""
MAX_SETTLE_WAITS = 10
"""How often :meth:`FilesStore.current` waits for a file to come to rest."""
Stamp = tuple[int, int, int]
"""Modification time (ns), size (bytes) and inode of a file: what tells one state of it from another."""


class FilesStore:
    """Reads and watches one directory (its files, not its folders)."""

    def __init__(self, directory: Path, last_good: Path) -> None:
        """``last_good``: the folder for copies of what was read well; it is made where it is missing."""
        self.directory = directory
        self.last_good = last_good
        self._stamps: dict[str, Stamp] = {}
        self._contents: dict[str, parsing.FileContent] = {}
        self._troubles: dict[str, Problem] = {}
        self._unkept: dict[str, Problem] = {}
        self._seen: dict[str, Stamp | None] = {}
        self._restless: set[str] = set()
        self._reading = asyncio.Lock()

    async def inventories(self) -> AsyncIterator[Inventory]:
        """The inventory now, then again after each change that alters it. Ends with its task."""
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
        """The inventory now, as :meth:`read` has it. Waits for files that are being written, but not for ever."""
        async with self._reading:
            inventory = await asyncio.to_thread(self.read)
            for _ in range(MAX_SETTLE_WAITS):
                if not self._restless:
                    break
                await asyncio.sleep(SETTLE_S)
                inventory = await asyncio.to_thread(self.read)
            return inventory

    async def for_pod(self, namespace: str, name: str, uid: str) -> Inventory | None:
        """See :meth:`gateway_agent.manifests.store.Store.for_pod`."""
        # While somebody reads, the directory counts as seen already, but its inventory is not there yet.
        return await self.current() if self._reading.locked() or self.outdated() else None

    def outdated(self) -> bool:
        """Whether the directory has changed since it was read last. Cheap: one ``stat`` for each file."""
        try:
            return self._look() != self._seen
        except OSError:
            # What cannot be looked at is not read either, and keeps its last state.
            return False

    async def _changes(self) -> AsyncIterator[None]:
        while True:
            yield
            if not self.directory.is_dir():
                await asyncio.sleep(0.5)
                continue
            # The directory itself may be replaced (rename, mount): awatch then ends or fails, and we begin anew.
            # yield_on_timeout also sees what happened between the first reading and the watch's start.
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
        """Reads what has changed since the last call. Never raises for what stands in the files.

        Raises OSError where the directory cannot be read and never was: nobody knows then which pods are selected.
        """
        try:
            seen = self._look()
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
        """Whether there is an earlier state, be it of an earlier process."""
        if not self._contents:
            with contextlib.suppress(OSError):
                for copy in self.last_good.iterdir():
                    name = str(self.directory / copy.name)
                    if not copy.name.startswith(".") and (content := self._copy(name)):
                        self._contents[name] = content
        return bool(self._contents)

    def _look(self) -> dict[str, Stamp | None]:
        """The manifests by path; None where a path leads nowhere. Raises OSError where there is no directory."""
        found: dict[str, Stamp | None] = {}
        for path in sorted(self.directory.iterdir()):
            if path.name.endswith(parsing.ENDINGS) and not path.name.startswith("."):
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
        """The last good state that an earlier process has left; it is reported under the name of the file."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return parsing.parse_file(name, self._copied(name))
        return None

    def _copied(self, name: str) -> str:
        return (self.last_good / Path(name).name).read_text(encoding="utf-8")

    def _keep_copy(self, name: str, text: str) -> None:
        path = self.last_good / Path(name).name
        try:
            self.last_good.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = self.last_good / f".{os.getpid()}"
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with named(path), open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.rename(new, path)
        except OSError as error:
            # A full disk costs the copy, not the service.
            hint = (
                "the file counts; should it become wrong, an agent that starts then does not know what it was"
            )
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
            if status.st_size > parsing.LARGEST:
                raise OSError(f"larger than {parsing.LARGEST} bytes")
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self._troubles[name] = Problem(
                name, "", f"cannot be read: {getattr(error, 'strerror', None) or error}"
            )
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
        inventory = parsing.assemble(self._contents)
        troubles = tuple(found[name] for found in (self._troubles, self._unkept) for name in sorted(found))
        return parsing.with_problems(inventory, troubles) if troubles else inventory

    def _is_restless(self, name: str, status: os.stat_result) -> bool:
        """Whether a file with an earlier state was written a moment ago: then that state goes on to count."""
        if not _young(status):
            return False
        known = self._contents.get(name) or self._copy(name)
        if known is None:
            return False
        self._contents[name] = known
        self._restless.add(name)
        return True


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _young(status: os.stat_result) -> bool:
    """Return True if the last change is younger than :data:`SETTLE_S`; a time in the future does not count."""
    return 0 <= time.time() - status.st_mtime < SETTLE_S
