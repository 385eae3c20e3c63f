"""The schedules of ``test_add_order.py`` with the files store and a real directory: reads and reports are held."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import watchfiles

from gateway_agent.adapters.files import files_store
from gateway_agent.adapters.files.files_store import FilesStore
from gateway_agent.agent.requests import cni_add
from tests.lab import documents

from ..edited_policies import EditedPolicies, nodes
from ..gates import Gates, settle
from ..test_add_order import World, judged, request

T = TypeVar("T")
LATE_S = 600.0
"""Seconds that exceed the length of a run, since no clock is to decide."""
EDITS = (
    ("a", "203.0.113.0/24"),
    ("a", "198.51.100.0/24"),
    ("b", "203.0.113.0/24"),
    ("a",),
    ("a", "192.0.2.0/24"),
    ("b",),
)
"""Changes of the directory, one after another: a policy with its destinations; without any it is removed."""
SLOW = ("", "watch", "disk", "read", "tag", "reconcile", "tagged", "thread")
"""Calls that wait in a run as long as anything else continues: races need one that is much slower than the rest."""


class InterruptedFiles(FilesStore):
    """A files store in whose reading something else may happen before each file: ``meanwhile``."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def _read_file(self, path: Path) -> None:
        self.meanwhile()
        super()._read_file(path)


class Directory:
    """Manifests that are edited, and what they were."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.policies = EditedPolicies()
        path.mkdir()
        self._write("gateways", documents.gateway("partner", "eth1", {"role": "egress"}))
        for node in nodes():
            self._write(node["metadata"]["name"], node)

    def edit(self, name: str, *destinations: str) -> None:
        """Write a policy as an editor does, or remove it if it leads nowhere."""
        if destinations:
            self._write(name, documents.policy(name, "partner", {name: "yes"}, destinations))
        else:
            (self.path / f"{name}.yaml").unlink(missing_ok=True)
        self.policies.edit(name, destinations)

    def _write(self, name: str, document: Any) -> None:
        new = self.path / f".{name}"
        new.write_text(json.dumps(document))
        new.rename(self.path / f"{name}.yaml")


def hold_the_disk(gates: Gates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold each read of the directory, and each report that it has changed."""

    async def to_thread(function: Callable[..., T], *arguments: Any) -> T:
        await gates.hold("disk")
        found = function(*arguments)
        # What was read is known to the store, and not yet to the agent.
        await gates.hold("read")
        return found

    async def awatch(*_: Any, **__: Any) -> AsyncIterator[set[Any]]:
        while True:
            await gates.hold("watch")
            yield set()

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    monkeypatch.setattr(watchfiles, "awatch", awatch)


@pytest.mark.parametrize("settling", [0.0, 0.01], ids=["at once", "settled"])
@pytest.mark.parametrize("seed", range(48))
def test_an_add_never_answers_by_older_files_than_there_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, settling: float
) -> None:
    """Edits and an ADD between any two steps of rounds, reports, and the reading of single files.

    A change counts at once, or when the file has rested: then an ADD waits until it has.
    """
    monkeypatch.setattr(cni_add, "ADD_S", LATE_S)
    monkeypatch.setattr(files_store, "SETTLE_S", settling)
    rng = random.Random(seed)
    edits = list(EDITS[rng.randrange(len(EDITS)) :])
    late, pace = SLOW[seed % len(SLOW)], rng.choice([0.02, 0.1, 0.3])
    files = Directory(tmp_path / "manifests")
    if rng.random() < 0.5:
        files.edit("a", "192.0.2.128/25")
    answers: list[str] = []
    began: list[int] = []

    def edit_sometimes() -> None:
        if edits and rng.random() < pace / 4:
            files.edit(*edits.pop(0))

    async def scenario() -> None:
        store = InterruptedFiles(files.path, tmp_path / "good")
        world = World(tmp_path, store=lambda _: store)
        gates = world.gates
        hold_the_disk(gates, monkeypatch)
        try:
            await world.open_all(lambda: world.state.applied is not None)
            store.meanwhile = edit_sometimes

            def answered(task: asyncio.Task[bytes]) -> None:
                known = files.policies.known_since(began[0], world.state.inventory)
                answers.append(judged(world, task) if known else "by older objects")

            call: asyncio.Task[bytes] | None = None
            async with asyncio.timeout(LATE_S):
                while call is None or not call.done():
                    await settle()
                    world.check_left_alone()
                    waiting = [i for i, (name, _) in enumerate(gates.waiting) if name != late]
                    if waiting and rng.random() > pace:
                        await gates.open(rng.choice(waiting))
                    elif call is None and rng.random() < 0.5:
                        began.append(files.policies.newest())
                        call = asyncio.create_task(world.calls.handle(request()))
                        # Nothing else may run between the answer and the look at the kernel.
                        call.add_done_callback(answered)
                    elif edits:
                        files.edit(*edits.pop(0))
                    elif gates.waiting:
                        await gates.open(0)
            await settle()
        finally:
            await world.close()

    asyncio.run(scenario())
    assert answers == ["right"]
