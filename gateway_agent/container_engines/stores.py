"""The stores of this node's container engines, read only: podman's data base, and containerd by ``ctr``.

podman holds the lock of a container while it calls CNI plugins, so whatever asks podman itself (``podman inspect``,
``podman ps``, its API) would wait for the call that asks. Its data base can be read at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from . import documents
from .bolt import Bolt
from .documents import Container, Listing

DEADLINE = 2.0
"""Seconds for one question."""
IN_ALL, LISTING = DEADLINE + 1.0, 30.0
"""Seconds after which a question to podman's data base, or a listing of it, is given up: its disk may hang."""
THREADS = 2
WRITTEN_AHEAD = b"\2\2"
"""Versions for writing and reading in the header of an SQLite file in WAL mode."""
RETRY = 0.01
LARGEST = 256 << 20
"""Bytes of a data base."""
CTR_ANSWER = 4 << 20
"""Bytes."""
Row = tuple[bytes | str, bytes | str, bytes | str]
"""Configuration, state and configuration of the pod of one container, as JSON."""
T = TypeVar("T")


class EngineError(Exception):
    """What an engine's store does not tell, and why."""


class Podman:
    """``root``: podman's ``graphroot``, or the directory with its data base: BoltDB up to version 4.7, then SQLite."""

    name = "podman"

    def __init__(self, root: Path) -> None:
        self._root = root
        places = (root / "libpod", root)
        self._bolt = tuple(place / "bolt_state.db" for place in places)
        self._sqlite = tuple(place / "db.sql" for place in places)

    def here(self) -> bool:
        """Return True if there is such an engine, be its store readable or not."""
        return any(map(os.path.lexists, (*self._bolt, *self._sqlite)))

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Return what changes whenever the data base does."""
        found = []
        for path in (*self._bolt, *self._sqlite, *(path.with_name("db.sql-wal") for path in self._sqlite)):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((str(path), status.st_mtime_ns, status.st_size))
        return tuple(found)

    def find(self, container_id: str) -> Container | None:
        """Return the container with this id; None if podman has none. Raises EngineError."""
        for path, row in self._rows(container_id):
            try:
                return documents.of_podman(*row)
            except ValueError as error:
                raise EngineError(f"{path} cannot be read: {error}") from error
        return None

    def listing(self) -> Listing:
        """Return all containers. Raises EngineError."""
        found, broken = {}, []
        for path, row in self._rows(""):
            try:
                container = documents.of_podman(*row)
            except ValueError as error:
                broken.append(f"a container in {path}: {error}")
                continue
            # After the machine has started, the data base tells of processes from before.
            found[container.id] = replace(container, pid=container.pid if _runs(container.pid) else 0)
        backend = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            backend = (self._root / "defaultNetworkBackend").read_text(encoding="ascii").strip()
        return Listing(self.name, backend, tuple(found.values()), tuple(broken))

    def _rows(self, container_id: str) -> Iterator[tuple[Path, Row]]:
        for path in (*self._bolt, *self._sqlite):
            if os.path.lexists(path):
                read = _bolt_rows if path in self._bolt else _sqlite_rows
                try:
                    rows = list(read(path, container_id))
                except (OSError, ValueError, sqlite3.Error) as error:
                    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                    raise EngineError(f"{path} cannot be read: {words}") from error
                yield from ((path, row) for row in rows)


def _runs(pid: int) -> bool:
    return pid > 0 and os.path.exists(f"/proc/{pid}")


def _bolt_rows(path: Path, container_id: str) -> Iterator[Row]:
    data = Bolt(_under_lock(path))
    pods = dict(data.buckets(b"pod"))
    one = ((b"", {key: value or b"" for key, value in data.items(b"ctr", container_id.encode())}),)
    for _, found in one if container_id else data.buckets(b"ctr"):
        if config := found.get(b"config"):
            pod = pods.get(found.get(b"pod-id", b""), {})
            yield config, found.get(b"state") or b"{}", pod.get(b"config") or b"{}"


def _under_lock(path: Path) -> bytes:
    """Return the file as no transaction changes it. podman locks it for each transaction and waits for others."""
    end = time.monotonic() + DEADLINE
    with path.open("rb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise ValueError(f"another program has locked it for {DEADLINE:g} s") from None
                time.sleep(RETRY)
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise ValueError(f"larger than {LARGEST} bytes")
        return file.read()


def _sqlite_rows(path: Path, container_id: str) -> Iterator[Row]:
    query = (
        "SELECT c.JSON, s.JSON, COALESCE(p.JSON, '{}') FROM ContainerConfig c JOIN ContainerState s ON s.ID = c.ID "
        "LEFT JOIN PodConfig p ON p.ID = c.PodID"
    )
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if _is_at_rest(path) else ''}"
    with contextlib.closing(sqlite3.connect(uri, timeout=DEADLINE, uri=True)) as data:
        if container_id:
            yield from data.execute(query + " WHERE c.ID = ?", (container_id,)).fetchall()
        else:
            yield from data.execute(query).fetchall()


def _is_at_rest(path: Path) -> bool:
    """Return True if the data base is one that is written ahead, and no podman has it open. Raises OSError.

    Such a file is complete. Without being told, SQLite makes two files beside it, and fails where it may not.
    """
    with path.open("rb") as file:
        versions = file.read(20)[18:]
    return versions == WRITTEN_AHEAD and not os.path.lexists(f"{path}-wal")


class Containerd:
    """``socket``: of containerd. Asked by its own client ``ctr``, which comes with it."""

    name = "containerd"

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def here(self) -> bool:
        """Return True if there is such an engine."""
        return os.path.lexists(self._socket)

    async def find(self, container_id: str) -> Container | None:
        """Return the container that the id of a CNI call stands for; None if there is none. Raises EngineError."""
        found = []
        for namespace, name in documents.containerd_names(container_id):
            found += [c for c in [await self._ask(namespace, name)] if c is not None]
        if len(found) > 1:
            raise EngineError(f"containerd has {len(found)} containers that {container_id} can stand for")
        return found[0] if found else None

    async def _ask(self, namespace: str, name: str) -> Container | None:
        command = (
            "ctr",
            "--address",
            str(self._socket),
            "--namespace",
            namespace,
            "containers",
            "info",
            "--",
            name,
        )
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(*command, stdin=nothing, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise EngineError(f"ctr cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(DEADLINE):
                output, errors = await process.communicate()
        except TimeoutError:
            raise EngineError(f"containerd at {self._socket} did not answer within {DEADLINE:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            words = errors.decode(errors="replace").strip()
            if "not found" in words:
                return None
            raise EngineError(f"ctr: {words[-200:]}")
        try:
            return documents.of_containerd(output[:CTR_ANSWER])
        except ValueError as error:
            raise EngineError(f"containerd's answer: {error}") from error


class Engines:
    """All of this node. None: that engine is not asked."""

    def __init__(self, podman: Path | None, containerd: Path | None) -> None:
        self._podman = Podman(podman) if podman else None
        self._containerd = Containerd(containerd) if containerd else None
        self._listed: tuple[object, Listing] | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="engines")

    async def find(self, container_id: str) -> Container | None:
        """Return the container of a CNI call; None if no engine that is here has it.

        Raises EngineError if none has it of those that answer, and one does not.
        """
        failed = None
        for asked in (self._of_podman, self._of_containerd):
            try:
                if (found := await asked(container_id)) is not None:
                    return found
            except EngineError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return None

    async def _of_podman(self, container_id: str) -> Container | None:
        podman = self._podman
        if podman is None:
            return None
        return await self._in_thread(lambda: podman.find(container_id) if podman.here() else None, IN_ALL)

    async def _of_containerd(self, container_id: str) -> Container | None:
        if self._containerd is None or not self._containerd.here():
            return None
        return await self._containerd.find(container_id)

    async def listing(self) -> Listing | None:
        """Return the containers of an engine that may run some beside the plugin; None if it is not here.

        Raises EngineError.
        """
        if self._podman is not None:
            self._listed = await self._in_thread(partial(_listed, self._podman, self._listed), LISTING)
        return self._listed[1] if self._listed else None

    async def _in_thread(self, call: Callable[[], T], limit: float) -> T:
        """Call it in a thread. Raises what it does, and EngineError if it takes longer than ``limit`` seconds.

        The threads are of their own: a disk that hangs keeps them, and no other work may wait for these.
        """
        try:
            async with asyncio.timeout(limit):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError:
            raise EngineError(f"podman's data base did not answer within {limit:g} s") from None


def _listed(podman: Podman, before: tuple[object, Listing] | None) -> tuple[object, Listing] | None:
    """Return the state of the data base and its listing, the one before if nothing has changed."""
    if not podman.here():
        return None
    stamp = podman.stamp()
    return before if before is not None and before[0] == stamp else (stamp, podman.listing())
