"""Checks of the answers that a master passes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway_agent.policy.egress_node.path_faults import Answers

from ..egress_node import (
    daemon_state,
    egress_node,
    only_asked,
)
from ..gates import FakeDaemon, FakePathProbe

__all__ = ["only_asked"]


@pytest.mark.usefixtures("only_asked")
@pytest.mark.parametrize("master", ["w1", "g1"])
def test_answers_that_a_master_drops_are_a_problem_until_they_pass(tmp_path: Path, master: str) -> None:
    async def scenario() -> None:
        daemon, probe = FakeDaemon(), FakePathProbe()
        daemon.news.put_nowait(daemon_state(master, 3))
        world = egress_node(tmp_path, daemon, probe, "partner")

        async def problems(came: int, went: int) -> list[str]:
            probe.seen = Answers(came, went)
            looking = asyncio.create_task(world.parts.answers.look())
            await world.open_all(looking.done)
            return [p.message.partition(" answers")[0] for p in world.problems() if p.source == "path"]

        try:
            await world.open_all(lambda: world.state.applied is not None and bool(daemon.sent))
            assert await problems(100, 100) == []
            assert await problems(110, 100) == []
            serves = master == "w1"
            # The window goes on until enough have come.
            assert await problems(120, 100) == (["20 of 20"] if serves else [])
            assert await problems(125, 105) == (["20 of 20"] if serves else [])
            assert await problems(5, 5) == (["20 of 20"] if serves else [])
            assert await problems(45, 45) == []
            assert daemon.sent[-1].egress[0].ready
        finally:
            await world.close()

    asyncio.run(scenario())
