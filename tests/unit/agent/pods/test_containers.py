"""Looks at the container engines of a node: what fails there ends no agent."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gateway_agent.agent.pods import containers
from gateway_agent.agent.pods.containers import Containers
from gateway_agent.agent.state import NodeState
from gateway_agent.container_engines.stores import Engines
from gateway_agent.manifests.model import Inventory

from ...container_engines.test_stores import sqlite_store
from ..test_add_order import World, run_scenario
from ..test_bad_objects import BAD, GOOD


def test_an_object_that_cannot_be_planned_ends_no_look_at_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the agent that ends by itself ends the agent."""
    monkeypatch.setattr(containers, "PERIOD_S", 0.001)
    sqlite_store(tmp_path)
    known = replace(BAD["namespace"][0], namespaces={"default": BAD["namespace"][0].namespaces["bad"]})

    async def scenario(world: World) -> None:
        state = NodeState(known)
        looks = Containers(Engines(tmp_path, None), world.parts.pods, state)
        running = asyncio.create_task(looks.run(lambda: None))
        try:
            async with asyncio.timeout(20):
                while not looks.problems and not running.done():
                    await asyncio.sleep(0.001)
                assert not running.done()
                assert [str(p) for p in looks.problems if "ZeroDivisionError" in p.message] != []
                state.inventory = Inventory()
                while looks.problems:
                    assert not running.done()
                    await asyncio.sleep(0.001)
        finally:
            running.cancel()

    run_scenario(tmp_path, scenario, GOOD)
