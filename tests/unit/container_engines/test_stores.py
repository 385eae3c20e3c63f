"""The stores of container engines: SQLite as podman 4.8 and later make it, BoltDB as podman before, and what is wrong.

``tests/e2e/test_podman.py`` and ``tests/e2e/test_ctr.py`` ask real engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import sqlite3
from pathlib import Path

import pytest

from gateway_agent.container_engines import stores
from gateway_agent.container_engines.documents import Container, EngineError
from gateway_agent.container_engines.stores import Engines, Podman
from tests.fuzz.engines import CONFIG, GOOD, POD, STATE

SCHEMA = """
CREATE TABLE PodConfig(ID TEXT PRIMARY KEY NOT NULL, Name TEXT UNIQUE NOT NULL, JSON TEXT NOT NULL);
CREATE TABLE ContainerConfig(ID TEXT PRIMARY KEY NOT NULL, Name TEXT UNIQUE NOT NULL, PodID TEXT, JSON TEXT NOT NULL);
CREATE TABLE ContainerState(ID TEXT PRIMARY KEY NOT NULL, State INTEGER NOT NULL, ExitCode INTEGER, JSON TEXT NOT NULL);
"""
"""Tables and columns that are read here: ``libpod/sqlite_state_internal.go``."""
SHOP = Container("c1", "shop", {"app": "shop"}, os.getpid())
"""The container of the pod ``shop`` in the data bases, with this process as its own."""


def sqlite_store(root: Path, path: str = "db.sql") -> Podman:
    (root / path).parent.mkdir(exist_ok=True)
    with sqlite3.connect(root / path) as data:
        data.executescript(SCHEMA)
        state = json.dumps({**STATE, "pid": os.getpid()})
        data.execute("INSERT INTO PodConfig VALUES ('p1', 'shop', ?)", (json.dumps(POD),))
        data.execute("INSERT INTO ContainerConfig VALUES ('c1', 'web', 'p1', ?)", (json.dumps(CONFIG),))
        data.execute("INSERT INTO ContainerState VALUES ('c1', 3, NULL, ?)", (state,))
        alone = json.dumps({"id": "c2", "name": "alone", "createNetNS": True})
        data.execute("INSERT INTO ContainerConfig VALUES ('c2', 'alone', NULL, ?)", (alone,))
        data.execute("INSERT INTO ContainerState VALUES ('c2', 1, NULL, '{}')")
    data.close()
    return Podman(root)


def bolt_store(root: Path, content: bytes = GOOD) -> Podman:
    (root / "libpod").mkdir()
    (root / "libpod" / "bolt_state.db").write_bytes(content)
    return Podman(root)


@pytest.mark.parametrize("path", ["db.sql", "libpod/db.sql"])
def test_sqlite(tmp_path: Path, path: str) -> None:
    podman = sqlite_store(tmp_path, path)
    assert podman.here()
    assert podman.find("c1") == SHOP
    assert podman.find("c2") == Container("c2", "alone", {}, 0, "none")
    assert podman.find("c3") is None
    assert {container.id for container in podman.listing().containers} == {"c1", "c2"}


def test_bolt(tmp_path: Path) -> None:
    podman = bolt_store(tmp_path)
    (tmp_path / "defaultNetworkBackend").write_text("netavark")
    found = podman.find("c1")
    assert found is not None
    assert (found.name, found.labels) == ("shop", {"app": "shop"})
    assert podman.find("c3") is None
    assert podman.listing().backend == "netavark"


def test_both_are_read_where_podman_was_upgraded(tmp_path: Path) -> None:
    bolt_store(tmp_path)
    assert [(c.id, c.pid) for c in sqlite_store(tmp_path).listing().containers] == [
        ("c1", os.getpid()),
        ("c2", 0),
    ]


def test_a_data_base_with_a_directory_of_its_own(tmp_path: Path) -> None:
    """``static_dir`` of podman's configuration."""
    bolt_store(tmp_path)
    assert Podman(tmp_path / "libpod").find("c1") is not None


def test_what_the_last_transactions_changed_counts(tmp_path: Path) -> None:
    """Newer podman writes ahead: until the last one that has it open is gone, changes are in a file beside it."""
    sqlite_store(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "db.sql")) as open_still:
        open_still.execute("PRAGMA journal_mode=WAL")
        before = Podman(tmp_path).stamp()
        changed = json.dumps({**CONFIG, "labels": {"app": "new"}, "pause": False})
        open_still.execute("UPDATE ContainerConfig SET JSON = ? WHERE ID = 'c1'", (changed,))
        open_still.commit()
        assert Podman(tmp_path).stamp() != before
        found = Podman(tmp_path).find("c1")
    assert found is not None
    assert found.labels == {"app": "new"}
    assert Podman(tmp_path).find("c1") == found


def test_one_broken_container_hides_no_others(tmp_path: Path) -> None:
    podman = sqlite_store(tmp_path)
    with sqlite3.connect(tmp_path / "db.sql") as data:
        data.execute("UPDATE ContainerConfig SET JSON = '[]' WHERE ID = 'c2'")
    data.close()
    listing = podman.listing()
    assert [container.id for container in listing.containers] == ["c1"]
    assert [text.partition(": ")[2] for text in listing.broken] == ["not a JSON object"]
    with pytest.raises(EngineError, match="not a JSON object"):
        podman.find("c2")


def test_a_process_that_is_gone_does_not_run(tmp_path: Path) -> None:
    """After a start of the machine the data base still tells of containers that ran before it."""
    podman = sqlite_store(tmp_path)
    with sqlite3.connect(tmp_path / "db.sql") as data:
        data.execute("UPDATE ContainerState SET JSON = ?", (json.dumps({**STATE, "pid": 1 << 30}),))
    data.close()
    assert [container.pid for container in podman.listing().containers] == [0, 0]


def test_a_number_that_another_process_has_since_the_boot_is_no_container(tmp_path: Path) -> None:
    """Podman's directory of a boot is gone after it; until podman runs again, its data base is as it was."""
    podman = sqlite_store(tmp_path)

    def listed(run_dir: object) -> list[int]:
        with sqlite3.connect(tmp_path / "db.sql") as data:
            state = json.dumps({**STATE, "pid": os.getpid(), "runDir": run_dir})
            data.execute("UPDATE ContainerState SET JSON = ? WHERE ID = 'c1'", (state,))
        data.close()
        return [container.pid for container in podman.listing().containers if container.id == "c1"]

    assert listed(str(tmp_path / "gone")) == [0]
    assert listed("\0") == [0]
    for there in (str(tmp_path), "", None, 7):
        assert listed(there) == [os.getpid()]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("libpod/bolt_state.db", b"garbage"),
        ("db.sql", b"garbage that is longer than nothing"),
        ("db.sql", b""),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_the_file(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / "libpod").mkdir()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EngineError, match=name):
        Podman(tmp_path).find("c1")
    with pytest.raises(EngineError, match=name):
        Podman(tmp_path).listing()


def test_a_dangling_link_is_an_engine_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "db.sql").symlink_to(tmp_path / "gone")
    assert Podman(tmp_path).here()
    with pytest.raises(EngineError, match="No such file"):
        Podman(tmp_path).find("c1")


def test_a_file_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    podman = bolt_store(tmp_path)
    monkeypatch.setattr(stores, "QUERY_TIMEOUT_S", 0.05)
    with (tmp_path / "libpod" / "bolt_state.db").open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(EngineError, match="locked"):
            podman.find("c1")
    assert podman.find("c1") is not None


def test_no_engine_here(tmp_path: Path) -> None:
    for none in (Engines(None, None), Engines(tmp_path / "none", tmp_path / "none.sock")):
        assert asyncio.run(none.find("c1")) is None
        assert asyncio.run(none.listing()) is None


def test_a_listing_is_made_again_if_the_data_base_has_changed(tmp_path: Path) -> None:
    sqlite_store(tmp_path)

    async def scenario() -> None:
        seen = Engines(tmp_path, None)
        first = await seen.listing()
        assert await seen.listing() is first
        with sqlite3.connect(tmp_path / "db.sql") as data:
            data.execute("DELETE FROM ContainerConfig WHERE ID = 'c2'")
        data.close()
        os.utime(tmp_path / "db.sql", ns=(1, 1))
        second = await seen.listing()
        assert second is not None
        assert [container.id for container in second.containers] == ["c1"]

    asyncio.run(scenario())


def test_a_program_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of ctr, one that never answers: its process is gone when the error comes."""
    (tmp_path / "ctr").write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 1000\n")
    (tmp_path / "ctr").chmod(0o755)
    (tmp_path / "c.sock").touch()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(stores, "QUERY_TIMEOUT_S", 1.0)
    with pytest.raises(EngineError, match="did not answer"):
        asyncio.run(Engines(None, tmp_path / "c.sock").find("default-f00"))
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")


def test_an_engine_that_cannot_be_read_hides_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of ctr is containerd's own (1.6); the whole exchange is in ``tests/e2e/test_ctr.py``."""
    bolt_store(tmp_path, b"garbage")
    answer = json.dumps({"ID": "f00", "Labels": {"app": "b"}})
    (tmp_path / "ctr").write_text(
        f"#!/bin/sh\nif [ $4 = default ]; then echo '{answer}'; exit; fi\n"
        "echo 'ctr: container in namespace: not found' >&2; exit 1\n"
    )
    (tmp_path / "ctr").chmod(0o755)
    (tmp_path / "c.sock").touch()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    both = Engines(tmp_path, tmp_path / "c.sock")
    assert asyncio.run(both.find("default-f00")) == Container("f00", "f00", {"app": "b"})
    with pytest.raises(EngineError, match="bolt_state"):
        asyncio.run(both.find("other-f00"))


def test_without_its_client_containerd_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.sock").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="ctr cannot be run"):
        asyncio.run(Engines(None, tmp_path / "c.sock").find("default-f00"))


def test_a_data_base_that_hangs_holds_up_no_other_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a pipe hangs until somebody writes to it, as opening a file does whose disk is away."""
    (tmp_path / "libpod").mkdir()
    pipe = tmp_path / "libpod" / "bolt_state.db"
    os.mkfifo(pipe)
    monkeypatch.setattr(stores, "FIND_TIMEOUT_S", 0.2)
    monkeypatch.setattr(stores, "LISTING_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        seen = Engines(tmp_path, None)
        asked = [asyncio.create_task(seen.find(f"c{number}")) for number in range(64)]
        listed = asyncio.create_task(seen.listing())
        async with asyncio.timeout(10):
            await asyncio.to_thread(lambda: None)
            outcomes = await asyncio.gather(*asked, listed, return_exceptions=True)
        assert {str(outcome) for outcome in outcomes} == {"podman's database did not answer within 0.2 s"}
        assert {type(outcome) for outcome in outcomes} == {EngineError}

    writer = -1
    try:
        asyncio.run(scenario())
    finally:
        # The threads that hang end with it.
        with contextlib.suppress(OSError):
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            os.close(writer)


def test_reading_leaves_no_files_beside_the_data_base(tmp_path: Path) -> None:
    """And needs no right to write: a data base that is written ahead, and that no podman has open."""
    sqlite_store(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "db.sql")) as data:
        data.execute("PRAGMA journal_mode=WAL")
    assert os.listdir(tmp_path) == ["db.sql"]
    podman = Podman(tmp_path)
    before = podman.stamp()
    assert podman.find("c1") == SHOP
    assert os.listdir(tmp_path) == ["db.sql"]
    assert podman.stamp() == before
