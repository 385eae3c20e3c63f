"""Replace the manifest files of a node by a set, as a whole, even if a crash or a power cut interrupts it.

1. Each changed file is written as a draft in the same directory, under a name that the store does not read. On a full
   disk this fails, and nothing has changed.
2. The set is written into the state directory, as the one that is being applied. From now on it will be applied.
3. The drafts are renamed to their final names, and files that the set lacks are removed.
4. The set becomes the one that was applied last.

If a set is being applied when the agent starts, steps 3 and 4 are done again before the store is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from cni.files import replace_file

from ...config import AgentConfig
from ...manifest_sets import sets
from ...manifest_sets.acceptance import Local
from ...manifest_sets.sets import MAX_SET_BYTES, ManifestSet
from ...manifests.parsing import MAX_FILE_BYTES
from ...manifests.store import Store
from .files_store import FilesStore

log = logging.getLogger(__name__)

LAST, NEXT = "manifests.applied", "manifests.applying"
"""Files of the state directory: the set that was applied last, and the one that is being applied."""
DRAFT = ".egw-"
"""Prefix of the names of drafts."""
FILE_MODE = 0o644


class SetFiles:
    """The files of one store. ``directory``: of the manifests. ``hold``: suspends the store's reading of them."""

    def __init__(
        self, directory: Path, state_dir: Path, hold: Callable[[], AbstractAsyncContextManager[None]]
    ) -> None:
        self._directory = directory
        self._state_dir = state_dir
        self._hold = hold

    async def read(self) -> Local:
        """Return the manifests of this node. Raises OSError."""
        return await asyncio.to_thread(self._read)

    async def apply(self, manifests: ManifestSet) -> None:
        """Replace the manifests by a set. Raises OSError, and then nothing has changed, or the next start repairs."""
        async with self._hold():
            # A thread cannot be cancelled: the store must not read before it has ended.
            await asyncio.shield(asyncio.to_thread(self.replace, manifests))

    async def repair(self) -> str:
        """Finish an interrupted replacement; see :meth:`recover`. Raises OSError."""
        if not (self._state_dir / NEXT).exists():
            return ""
        async with self._hold():
            return await asyncio.shield(asyncio.to_thread(self.recover))

    async def adopt(self, manifests: ManifestSet) -> None:
        """Record a set as the last applied one: the directory already has its files. Raises OSError."""
        await asyncio.to_thread(self._write, LAST, manifests)

    def recover(self) -> str:
        """Finish the replacement of an earlier process.

        Return a text about it; empty if there was none. Raises OSError.
        """
        self._remove_drafts(keep=(self._state_dir / NEXT).exists())
        manifests = self._known(NEXT)
        if manifests is None:
            return ""
        self._put(manifests)
        return f"the manifests are those of set {manifests.version.text} now: an earlier process had begun it"

    def replace(self, manifests: ManifestSet) -> None:
        """Replace the manifests by a set. Blocks. Raises OSError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            for name, text in manifests.files:
                if _text(self._directory / name) != text:
                    self._draft(name, text)
            self._write(NEXT, manifests)
        except OSError:
            self._remove_drafts()
            raise
        self._put(manifests)

    def _read(self) -> Local:
        found: dict[str, str | None] = {}
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._directory):
                if sets.is_manifest(name):
                    found[name] = _text(self._directory / name)
        return Local(self._known(LAST), found)

    def _known(self, name: str) -> ManifestSet | None:
        """Return a set of the state directory; None if there is none. An invalid file counts as missing."""
        try:
            with open(self._state_dir / name, "rb") as file:
                return sets.unpacked(file.read(MAX_SET_BYTES + 1))
        except (FileNotFoundError, sets.Malformed):
            return None

    def _write(self, name: str, manifests: ManifestSet) -> None:
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(self._state_dir / name, sets.packed(manifests), 0o600)
        _sync(self._state_dir)

    def _put(self, manifests: ManifestSet) -> None:
        """Do steps 3 and 4, or the remaining part of them."""
        wanted = dict(manifests.files)
        for name, text in wanted.items():
            path, draft = self._directory / name, self._path_of_draft(name)
            if _text(path) != text:
                if _text(draft) != text:
                    self._draft(name, text)
                os.replace(draft, path)
        for name in os.listdir(self._directory):
            if sets.is_manifest(name) and name not in wanted:
                (self._directory / name).unlink(missing_ok=True)
        self._remove_drafts()
        _sync(self._directory)
        os.replace(self._state_dir / NEXT, self._state_dir / LAST)
        _sync(self._state_dir)

    def _draft(self, name: str, text: str) -> None:
        path = self._path_of_draft(name)
        path.unlink(missing_ok=True)
        replace_file(path, text.encode(), FILE_MODE)

    def _path_of_draft(self, name: str) -> Path:
        return self._directory / f"{DRAFT}{name}"

    def _remove_drafts(self, keep: bool = False) -> None:
        if not keep and self._directory.is_dir():
            for name in os.listdir(self._directory):
                if name.startswith((DRAFT, f".{DRAFT}")):
                    (self._directory / name).unlink(missing_ok=True)


def _text(path: Path) -> str | None:
    """Return the text of a file; None if it is missing, is no regular file, or is no text."""
    try:
        if path.is_file() and path.stat().st_size <= MAX_FILE_BYTES:
            return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return None


def _sync(directory: Path) -> None:
    """Sync a directory, so that its names outlive a power cut. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def opened(config: AgentConfig, store: Store) -> SetFiles | None:
    """Return the files of the manifests that nodes exchange; None if the nodes exchange none.

    Finish the replacement of an earlier process. Raises OSError.
    """
    if not (isinstance(store, FilesStore) and config.sets_port):
        return None
    files = SetFiles(store.directory, config.state_dir, store.held)
    if done := files.recover():
        log.warning("%s", done)
    return files
