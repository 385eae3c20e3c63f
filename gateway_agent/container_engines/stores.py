"""Read the stores of this node's container engines: podman's database, and containerd by ``ctr``.

podman holds the lock of a container while it calls CNI plugins, so a request to podman itself (``podman inspect``,
``podman ps``, its API) during a CNI call would wait for that call. Its database can be read at any time.
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
from .documents import Container, EngineError, Listing

QUERY_TIMEOUT_S = 2.0
"""Seconds of one query: for podman's lock, or for the answer of containerd."""
FIND_TIMEOUT_S, LISTING_TIMEOUT_S = QUERY_TIMEOUT_S + 1.0, 30.0
"""Seconds after which a query of podman's database, or a listing, is given up: its disk may hang."""
THREADS = 2
WRITTEN_AHEAD = b"\2\2"
"""Versions for writing and reading in the header of an SQLite file in WAL mode."""
LOCK_RETRY_S = 0.01
MAX_DATABASE_BYTES = 256 << 20
"""Size of a database."""
MAX_CTR_ANSWER_BYTES = 4 << 20
"""Size of an answer of ``ctr``."""
Row = tuple[bytes | str, bytes | str, bytes | str]
"""Configuration, state and configuration of the pod of one container, as JSON."""
T = TypeVar("T")


class Podman:
    """Reads podman's database: BoltDB up to version 4.7, then SQLite.

    ``root``: podman's ``graphroot``, or the directory with the database.
    """

    name = "podman"

    def __init__(self, root: Path) -> None:
        self._root = root
        places = (root / "libpod", root)
        self._bolt = tuple(place / "bolt_state.db" for place in places)
        self._sqlite = tuple(place / "db.sql" for place in places)

    def here(self) -> bool:
        """Return True if this node has the engine, even if its store is not readable."""
        return any(map(os.path.lexists, (*self._bolt, *self._sqlite)))

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Return a value that changes whenever the database does."""
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
            # After a reboot the database still has the pids of processes before it.
            found[container.id] = container if _runs(container) else replace(container, pid=0)
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
                    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                    raise EngineError(f"{path} cannot be read: {message}") from error
                yield from ((path, row) for row in rows)


def _runs(container: Container) -> bool:
    """Return True if its process is one of this boot: a process from before may have left its number to another one."""
    of_this_boot = not container.run_dir or os.path.isdir(container.run_dir)
    return container.pid > 0 and of_this_boot and os.path.exists(f"/proc/{container.pid}")


def _bolt_rows(path: Path, container_id: str) -> Iterator[Row]:
    data = Bolt(_under_lock(path))
    pods = dict(data.buckets(b"pod"))
    one = ((b"", {key: value or b"" for key, value in data.items(b"ctr", container_id.encode())}),)
    for _, found in one if container_id else data.buckets(b"ctr"):
        if config := found.get(b"config"):
            pod = pods.get(found.get(b"pod-id", b""), {})
            yield config, found.get(b"state") or b"{}", pod.get(b"config") or b"{}"


def _under_lock(path: Path) -> bytes:
    """Return the content of the file while no transaction changes it: podman locks it for each transaction."""
    end = time.monotonic() + QUERY_TIMEOUT_S
    with path.open("rb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise ValueError(f"another program has locked it for {QUERY_TIMEOUT_S:g} s") from None
                time.sleep(LOCK_RETRY_S)
        if os.fstat(file.fileno()).st_size > MAX_DATABASE_BYTES:
            raise ValueError(f"larger than {MAX_DATABASE_BYTES} bytes")
        return file.read()


def _sqlite_rows(path: Path, container_id: str) -> Iterator[Row]:
    query = (
        "SELECT c.JSON, s.JSON, COALESCE(p.JSON, '{}') FROM ContainerConfig c JOIN ContainerState s ON s.ID = c.ID "
        "LEFT JOIN PodConfig p ON p.ID = c.PodID"
    )
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if _is_at_rest(path) else ''}"
    with contextlib.closing(sqlite3.connect(uri, timeout=QUERY_TIMEOUT_S, uri=True)) as data:
        if container_id:
            yield from data.execute(query + " WHERE c.ID = ?", (container_id,)).fetchall()
        else:
            yield from data.execute(query).fetchall()


def _is_at_rest(path: Path) -> bool:
    """Return True if the database is in WAL mode and no podman has it open. Raises OSError.

    Such a file is complete. SQLite would create two files beside it, and fail if it may not, unless it is opened as
    immutable.
    """
    with path.open("rb") as file:
        versions = file.read(20)[18:]
    return versions == WRITTEN_AHEAD and not os.path.lexists(f"{path}-wal")


class Containerd:
    """Asks containerd by its own client ``ctr``, which is part of it. ``socket``: containerd's socket."""

    name = "containerd"

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def here(self) -> bool:
        """Return True if this node has the engine."""
        return os.path.lexists(self._socket)

    async def find(self, container_id: str) -> Container | None:
        """Return the container with the id of a CNI call; None if there is none. Raises EngineError."""
        found = []
        for namespace, name in documents.containerd_names(container_id):
            found += [c for c in [await self._ask(namespace, name)] if c is not None]
        if len(found) > 1:
            raise EngineError(f"containerd has {len(found)} containers that {container_id} can mean")
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
            async with asyncio.timeout(QUERY_TIMEOUT_S):
                output, errors = await process.communicate()
        except TimeoutError:
            late = f"did not answer within {QUERY_TIMEOUT_S:g} s"
            raise EngineError(f"containerd at {self._socket} {late}") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            message = errors.decode(errors="replace").strip()
            if "not found" in message:
                return None
            raise EngineError(f"ctr: {message[-200:]}")
        try:
            return documents.of_containerd(output[:MAX_CTR_ANSWER_BYTES])
        except ValueError as error:
            raise EngineError(f"containerd's answer: {error}") from error


class Engines:
    """All container engines of this node. None for ``podman`` or ``containerd``: do not ask that engine."""

    def __init__(self, podman: Path | None, containerd: Path | None) -> None:
        self._podman = Podman(podman) if podman else None
        self._containerd = Containerd(containerd) if containerd else None
        self._listed: tuple[object, Listing] | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="engines")

    async def find(self, container_id: str) -> Container | None:
        """Return the container of a CNI call; None if no engine of this node has it.

        Raises EngineError if no engine that answers has it, and another engine does not answer.
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
        return await self._in_thread(
            lambda: podman.find(container_id) if podman.here() else None, FIND_TIMEOUT_S
        )

    async def _of_containerd(self, container_id: str) -> Container | None:
        if self._containerd is None or not self._containerd.here():
            return None
        return await self._containerd.find(container_id)

    async def listing(self) -> Listing | None:
        """Return the containers of podman, which may run some without the plugin; None if this node has no podman.

        Raises EngineError.
        """
        if self._podman is not None:
            self._listed = await self._in_thread(
                partial(_listed, self._podman, self._listed), LISTING_TIMEOUT_S
            )
        return self._listed[1] if self._listed else None

    async def _in_thread(self, call: Callable[[], T], limit: float) -> T:
        """Return the result of ``call``, made in a thread. Raises EngineError after ``limit`` seconds, and its errors.

        The threads are used for nothing else, because a hanging disk blocks them.
        """
        try:
            async with asyncio.timeout(limit):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError:
            raise EngineError(f"podman's database did not answer within {limit:g} s") from None


def _listed(podman: Podman, before: tuple[object, Listing] | None) -> tuple[object, Listing] | None:
    """Return the stamp of the database and its listing; the ones ``before`` if nothing has changed."""
    if not podman.here():
        return None
    stamp = podman.stamp()
    return before if before is not None and before[0] == stamp else (stamp, podman.listing())
