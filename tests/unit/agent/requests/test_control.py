"""The answers to ``egressctl``: what is shown, what an operator may request, and what is refused with a hint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from cni import contract
from gateway_agent.agent.inputs import lease_client

from ..egress_node import daemon_state, egress_node
from ..gates import FakeDaemon, FakePathProbe, HeldStore
from ..test_add_order import World

Ask = Callable[..., Coroutine[Any, Any, dict[str, Any]]]


def answers(
    directory: Path,
    scenario: Callable[[World, FakeDaemon, Ask], Coroutine[Any, Any, None]],
    master: str = "g1",
) -> None:
    """Run a scenario on an egress node with one gateway, whose master is known."""

    async def run() -> None:
        daemon = FakeDaemon()
        daemon.news.put_nowait(daemon_state(master, 3))
        world = egress_node(directory, daemon, FakePathProbe(), "partner")

        async def ask(call: str, **arguments: object) -> dict[str, Any]:
            text = json.dumps({"call": call, **arguments}).encode()
            task = asyncio.create_task(world.calls.handle(contract.CONTROL + b"\0" + text))
            await world.open_all(task.done)
            found: dict[str, Any] = json.loads(task.result())
            return found

        try:
            await world.open_all(lambda: bool(daemon.sent) and world.parts.leases.state is not None)
            await scenario(world, daemon, ask)
        finally:
            await world.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "question", [b"", b"{", b"5", b"[]", b"{}", b'{"call": 5}', b'{"call": "format"}', b"[" * 100_000]
)
def test_what_is_no_call_is_refused_with_the_names_of_those_that_are(tmp_path: Path, question: bytes) -> None:
    async def scenario(world: World, _: FakeDaemon, ask: Ask) -> None:
        answer = json.loads(await world.calls.handle(contract.CONTROL + b"\0" + question))
        assert answer["error"] == "not a call that this agent knows"
        assert "status" in answer["hint"] and "handover" in answer["hint"]

    answers(tmp_path, scenario)


@pytest.mark.parametrize("call", ["status", "pods", "events", "explain"])
def test_before_the_store_is_read_nothing_is_shown_and_the_reason_is(tmp_path: Path, call: str) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        assert isinstance(world.store, HeldStore)
        try:
            text = json.dumps({"call": call, "pod": "a"}).encode()
            answer = json.loads(await world.calls.handle(contract.CONTROL + b"\0" + text))
            assert answer["error"] == "the agent has not read its store yet"
        finally:
            await world.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        ({"gateway": "other", "to": "g1"}, "no gateway 'other'", "one of partner"),
        ({"gateway": "partner", "ip": "172.16.0.50", "to": "g1"}, "has no address 172.16.0.50", ""),
        ({"gateway": "partner", "to": "w9"}, "'w9' cannot serve gateway partner", "g1"),
        ({"gateway": "partner"}, "'' cannot serve gateway partner", "g1"),
        ({}, "no gateway ''", "one of partner"),
    ],
)
def test_a_handover_that_cannot_be_is_refused_with_what_can(
    tmp_path: Path, arguments: dict[str, str], error: str, hint: str
) -> None:
    async def scenario(_: World, daemon: FakeDaemon, ask: Ask) -> None:
        answer = await ask("handover", **arguments)
        assert error in answer["error"]
        assert hint in answer["hint"]
        assert all(not config.moves for config in daemon.sent)

    answers(tmp_path, scenario)


def test_a_handover_ends_when_the_other_node_is_master(tmp_path: Path) -> None:
    async def scenario(world: World, daemon: FakeDaemon, ask: Ask) -> None:
        asked = asyncio.create_task(ask("handover", gateway="partner", to="w1"))
        await world.open_all(lambda: any(config.moves for config in daemon.sent))
        [move] = daemon.sent[-1].moves
        assert move.to == "w1"
        assert not asked.done()
        daemon.news.put_nowait(daemon_state("w1", 4))
        answer = await asked
        assert (answer["before"], answer["master"], answer["epoch"]) == ("g1", "w1", 4)

    answers(tmp_path, scenario)


def test_a_handover_to_the_master_itself_moves_nothing(tmp_path: Path) -> None:
    async def scenario(_: World, daemon: FakeDaemon, ask: Ask) -> None:
        answer = await ask("handover", gateway="partner", to="g1")
        assert (answer["before"], answer["master"]) == ("g1", "g1")
        assert not daemon.sent[-1].moves

    answers(tmp_path, scenario)


def test_a_handover_that_no_node_takes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_client.LeaseClient._until, "__defaults__", (0.01,))

    async def scenario(_: World, __: FakeDaemon, ask: Ask) -> None:
        answer = await ask("handover", gateway="partner", to="w1")
        assert answer["error"] == "w1 has not taken it over"

    answers(tmp_path, scenario)


@pytest.mark.parametrize("taken", [True, False])
def test_a_drain_names_what_moved_and_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    if not taken:
        monkeypatch.setattr(lease_client.LeaseClient._until, "__defaults__", (0.01,))

    async def scenario(world: World, daemon: FakeDaemon, ask: Ask) -> None:
        asked = asyncio.create_task(ask("drain"))
        await world.open_all(lambda: world.parts.leases.drained)
        if taken:
            daemon.news.put_nowait(daemon_state("g1", 4))
        answer = await asked
        assert answer["drained"] is True
        found = {key: [each["gateway"] for each in answer[key]] for key in ("moved", "left")}
        assert found == ({"moved": ["partner"], "left": []} if taken else {"moved": [], "left": ["partner"]})
        assert await ask("undrain") == {"node": "w1", "drained": False}
        assert not world.parts.leases.drained

    answers(tmp_path, scenario, master="w1")


def test_a_daemon_of_an_older_version_says_nothing_of_its_keys(tmp_path: Path) -> None:
    async def scenario(_: World, __: FakeDaemon, ask: Ask) -> None:
        assert (await ask("key"))["error"] == "the lease daemon is of an older version"

    answers(tmp_path, scenario)


def test_a_fault_of_the_agent_is_an_answer(tmp_path: Path) -> None:
    async def scenario(world: World, _: FakeDaemon, ask: Ask) -> None:
        world.parts.leases.undrain = None  # type: ignore[method-assign, assignment]
        answer = await ask("undrain")
        assert "the agent failed: TypeError" in answer["error"]

    answers(tmp_path, scenario)
