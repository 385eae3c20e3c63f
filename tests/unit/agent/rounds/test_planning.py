"""At rest nothing is planned again; whatever a plan follows from makes a new one, equal to one from nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway_agent.manifests.model import Inventory
from gateway_agent.policy import planner

from ..egress_node import UP, with_gateways
from ..test_add_order import World


def planned(world: World, inventory: Inventory) -> planner.Planned:
    return world.parts.planning._attempt()(inventory)


def in_world(directory: Path, check: Callable[[World], None]) -> None:
    async def scenario() -> None:
        world = World(directory, with_gateways("partner"))
        try:
            await world.open_all(lambda: world.state.followed is not None)
            check(world)
        finally:
            await world.close()

    asyncio.run(scenario())


def test_what_has_not_changed_is_not_planned_again(tmp_path: Path) -> None:
    def check(world: World) -> None:
        objects = world.state.inventory
        assert objects is not None
        first = planned(world, objects)
        assert planned(world, objects) is first

    in_world(tmp_path, check)


@pytest.mark.parametrize("part", ["inventory", "plan", "facts"])
def test_each_change_is_planned_as_if_nothing_had_been_planned_before(tmp_path: Path, part: str) -> None:
    def check(world: World) -> None:
        objects = world.state.inventory
        assert objects is not None and world.state.plan is not None
        first = planned(world, objects)
        if part == "inventory":
            objects = with_gateways("partner", "bank")
        elif part == "plan":
            world.state.plan = replace(world.state.plan, isolated=True)
        else:
            world.state.facts = {"eth9": UP}
        second = planned(world, objects)
        world.parts.planning._last = None
        assert second is not first and second == planned(world, objects)

    in_world(tmp_path, check)
