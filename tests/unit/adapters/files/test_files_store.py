"""The files store, on a real directory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_agent.adapters.files.files_store import FilesStore
from gateway_agent.manifests.model import Inventory

NODE = """\
apiVersion: v1
kind: Node
metadata: {{name: {name}}}
status: {{addresses: [{{type: InternalIP, address: 10.0.0.{last}}}]}}
"""


def edit(path: Path, text: str, age: float = 1.0) -> None:
    """Write in place, ``age`` seconds ago."""
    path.write_text(text)
    age_of(path, age)


def remove(path: Path, age: float = 1.0) -> None:
    path.unlink()
    age_of(path.parent, age)


def age_of(path: Path, age: float) -> None:
    moment = time.time() - age
    os.utime(path, (moment, moment))


def names(inventory: Inventory) -> list[str]:
    return [node.name for node in inventory.nodes]


@pytest.fixture
def store(tmp_path: Path) -> FilesStore:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "a.yaml").write_text(NODE.format(name="a", last=1))
    return FilesStore(directory, tmp_path / "last-good")


def test_reads_what_ends_as_a_manifest(store: FilesStore) -> None:
    (store.directory / "b.json").write_text('{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b"}}')
    (store.directory / "notes.txt").write_text("{")
    (store.directory / ".hidden.yaml").write_text("{")
    inventory = store.read()
    assert names(inventory) == ["a", "b"]
    assert inventory.problems == ()


def test_a_broken_file_keeps_its_last_good_state_and_is_reported(store: FilesStore) -> None:
    store.read()
    edit(store.directory / "a.yaml", NODE.format(name="a", last=1) + "---\nkind: [")
    inventory = store.read()
    assert names(inventory) == ["a"]
    assert [problem.source.startswith(str(store.directory / "a.yaml")) for problem in inventory.problems] == [
        True
    ]
    edit(store.directory / "a.yaml", NODE.format(name="c", last=1))
    assert names(store.read()) == ["c"]


def test_the_last_good_state_outlives_the_process(store: FilesStore) -> None:
    store.read()
    edit(store.directory / "a.yaml", "kind: [")
    restarted = FilesStore(store.directory, store.last_good)
    inventory = restarted.read()
    assert names(inventory) == ["a"]
    assert len(inventory.problems) == 1
    (store.directory / "b.yaml").write_text("")
    remove(store.directory / "a.yaml")
    assert names(FilesStore(store.directory, store.last_good).read()) == []
    assert [copy.name for copy in store.last_good.iterdir()] == ["b.yaml"]


@pytest.mark.parametrize("restarted", [False, True])
def test_of_a_file_only_the_object_that_is_wrong_keeps_its_last_good_state(
    store: FilesStore, tmp_path: Path, restarted: bool
) -> None:
    """Also where the file was never right as a whole."""
    path = store.directory / "a.yaml"
    good, other = NODE.format(name="a", last=1), NODE.format(name="b", last=2)
    edit(path, f"{good}---\n{other}---\n{NODE.format(name='c', last=300)}", age=4)
    assert names(store.read()) == ["a", "b"]
    edit(
        path,
        f"{good.replace('name: a', 'name: 7')}---\n{NODE.format(name='b', last=22)}---\n{{kind: [",
        age=3,
    )
    seen = FilesStore(store.directory, store.last_good) if restarted else store
    inventory = seen.read()
    assert {node.name: node.addresses for node in inventory.nodes} == {
        "a": ("10.0.0.1",),
        "b": ("10.0.0.22",),
    }
    assert len(inventory.problems) == 2
    edit(path, NODE.format(name="b", last=22), age=2)
    assert names(seen.read()) == ["b"]


def test_a_removed_file_takes_its_objects_with_it(store: FilesStore) -> None:
    store.read()
    (store.directory / "b.yaml").write_text(NODE.format(name="b", last=2))
    store.read()
    remove(store.directory / "a.yaml")
    assert names(store.read()) == ["b"]


def test_a_file_that_is_moved_away_and_written_anew_keeps_its_objects(store: FilesStore) -> None:
    store.read()
    remove(store.directory / "a.yaml", age=0)
    assert names(store.read()) == ["a"]
    edit(store.directory / "a.yaml", NODE.format(name="c", last=1))
    assert names(store.read()) == ["c"]


def test_a_link_that_leads_nowhere_is_reported_and_keeps_the_rest(store: FilesStore) -> None:
    (store.directory / "b.yaml").symlink_to("nowhere")
    inventory = store.read()
    assert names(inventory) == ["a"]
    assert [Path(problem.source).name for problem in inventory.problems] == ["b.yaml"]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("empty", [False, True])
def test_a_directory_that_is_gone_keeps_everything(store: FilesStore, empty: bool, restarted: bool) -> None:
    """An empty one too: it is what an unmounted disk leaves."""
    store.read()
    away = store.directory.with_name("away")
    store.directory.rename(away)
    if empty:
        store.directory.mkdir()
    seen = FilesStore(store.directory, store.last_good) if restarted else store
    inventory = seen.read()
    assert names(inventory) == ["a"]
    assert ["cannot be read" in problem.message for problem in inventory.problems] == [True]
    if empty:
        store.directory.rmdir()
    away.rename(store.directory)
    assert seen.read().problems == ()


def test_of_a_directory_that_was_never_there_nothing_is_known(tmp_path: Path) -> None:
    store = FilesStore(tmp_path / "none", tmp_path / "last-good")
    with pytest.raises(OSError, match="cannot be read"):
        store.read()
    store.directory.mkdir()
    assert store.read() == Inventory()


def test_what_cannot_be_read_is_reported_and_keeps_the_rest(store: FilesStore) -> None:
    (store.directory / "b.yaml").write_bytes(b"\xff\xfe kind: Node")
    os.mkfifo(store.directory / "c.yaml")
    inventory = store.read()
    assert names(inventory) == ["a"]
    assert sorted(Path(problem.source).name for problem in inventory.problems) == ["b.yaml", "c.yaml"]


def test_an_edit_is_seen_within_a_second(store: FilesStore) -> None:
    async def scenario() -> tuple[list[str], list[str]]:
        async def following(inventories: AsyncIterator[Inventory]) -> list[str]:
            async with asyncio.timeout(1.0):
                return names(await anext(inventories))

        inventories = store.inventories()
        first = await following(inventories)
        waiting = asyncio.ensure_future(following(inventories))
        (store.directory / "b.yaml").write_text(NODE.format(name="b", last=2))
        return first, await waiting

    assert asyncio.run(scenario()) == (["a"], ["a", "b"])


@pytest.mark.parametrize("restarted", [False, True])
def test_a_file_that_is_being_written_keeps_its_state_until_it_rests(
    store: FilesStore, restarted: bool
) -> None:
    """An editor empties a file before it fills it, and an empty file is valid."""
    store.read()
    seen = FilesStore(store.directory, store.last_good) if restarted else store
    edit(store.directory / "a.yaml", "", age=0)
    assert names(seen.read()) == ["a"]
    edit(store.directory / "a.yaml", NODE.format(name="c", last=1))
    assert names(seen.read()) == ["c"]


def test_current_waits_until_a_file_rests(store: FilesStore) -> None:
    store.read()
    edit(store.directory / "a.yaml", NODE.format(name="c", last=1), age=0)
    assert names(asyncio.run(store.current())) == ["c"]


def test_whoever_asks_learns_that_the_directory_has_changed(store: FilesStore) -> None:
    assert store.outdated()
    (store.directory / "broken.yaml").write_bytes(b"\xff")
    store.read()
    assert not store.outdated()
    edit(store.directory / "a.yaml", NODE.format(name="a", last=1), age=2)
    assert store.outdated()
    store.read()
    assert not store.outdated()
    remove(store.directory / "a.yaml")
    assert store.outdated()
    store.read()
    edit(store.directory / "a.yaml", NODE.format(name="a", last=1), age=0)
    store.read()
    edit(store.directory / "a.yaml", NODE.format(name="b", last=1), age=0)
    store.read()
    assert store.outdated(), "what is being written has not been read"


def test_what_has_not_changed_is_the_same_inventory(store: FilesStore) -> None:
    first = store.read()
    assert store.read() is first
    edit(store.directory / "b.yaml", NODE.format(name="b", last=2))
    assert names(store.read()) == ["a", "b"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", "", "broken"])), max_size=8))
def test_after_any_edits_the_inventory_is_that_of_a_first_reading(edits: list[tuple[str, str]]) -> None:
    with TemporaryDirectory() as name:
        directory, copies = Path(name, "manifests"), Path(name, "last-good")
        directory.mkdir()
        edit(directory / "z.yaml", NODE.format(name="z", last=9))
        store = FilesStore(directory, copies)
        for number, (file, content) in enumerate(edits):
            path = directory / f"{file}.yaml"
            if not content:
                path.unlink(missing_ok=True)
            else:
                # Another time each time: a file's stamp tells its states apart.
                text = "kind: [" if content == "broken" else NODE.format(name=content + file, last=number)
                edit(path, text, 1_000 - number)
            age_of(directory, 1.0)
            assert store.read() == FilesStore(directory, copies).read()
