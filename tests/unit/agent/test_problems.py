"""Problems of this node in status: a machine whose ``nodeName`` is not its own."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from gateway_agent.manifests.model import Inventory

from ..policy.small_inventory import NODES
from .gates import FakeInterfaces
from .test_add_order import EMPTY, World

HINT = "nodeName must be this machine's, and the inventory must have its address"


def problems_of(directory: Path, inventory: Inventory, local: Collection[str]) -> list[str]:
    """Return the problems of an agent named w1 on a machine with these addresses."""

    async def main() -> list[str]:
        world = World(directory, inventory, others={"interfaces": FakeInterfaces(local=local)})
        try:
            await world.open_all(lambda: world.state.applied is not None)
            return [str(problem) for problem in world.problems()]
        finally:
            await world.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("local", "rightful"),
    [
        ((), ""),
        (("10.0.0.1",), ""),
        (("172.16.0.8", "10.0.0.1"), ": it has 172.16.0.8, that of node g2"),
        (("fd00::7",), ": it has fd00::7, that of node g1"),
    ],
    ids=["no address", "another network", "another node", "another node, IPv6"],
)
def test_a_machine_that_bears_the_name_of_another_node_says_so(
    tmp_path: Path, local: Collection[str], rightful: str
) -> None:
    words = f"no interface of this machine has 172.16.0.21, the address of node w1{rightful}"
    assert problems_of(tmp_path, EMPTY, local) == [f"nodeName: {words} ({HINT})"]


def test_a_machine_with_its_own_name_has_no_problem(tmp_path: Path) -> None:
    assert problems_of(tmp_path, EMPTY, ("172.16.0.21",)) == []


@pytest.mark.parametrize("without", ["the node", "its address"])
def test_a_name_that_no_node_of_the_inventory_has_is_a_problem(tmp_path: Path, without: str) -> None:
    others = tuple(node for node in NODES if node.name != "w1")
    nameless = (*others, replace(NODES[2], addresses=())) if without == "its address" else others
    found = problems_of(tmp_path, replace(EMPTY, nodes=nameless), ("172.16.0.21",))
    assert [text.partition(" (")[0] for text in found if text.startswith("node w1: ")] == [
        "node w1: the inventory has no such node with an address"
    ]
    assert not [text for text in found if text.startswith("nodeName")]
