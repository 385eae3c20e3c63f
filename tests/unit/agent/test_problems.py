"""Problems of this node in status: a machine whose ``nodeName`` is not its own."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from gateway_agent.agent.problems import daemon_problems
from gateway_agent.lease.ipc import FOREIGN_KEY, LATE, KeeperState
from gateway_agent.manifests.model import Fault, Inventory
from gateway_agent.manifests.parsing import parse

from ..policy.small_inventory import NODES
from .gates import FakeInterfaces
from .test_add_order import EMPTY, World

HINT = "nodeName must be this machine's, and the inventory must have its address"

LOST = """\
apiVersion: egress-gateway.io/v1alpha1
kind: EgressGatewayPolicy
metadata: {name: lost}
spec: {egressGatewayName: nowhere, selectors: [{podSelector: {matchLabels: {app: a}}}]}
"""


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
    message = f"no interface of this machine has 172.16.0.21, the address of node w1{rightful}"
    assert problems_of(tmp_path, EMPTY, local) == [f"nodeName: {message} ({HINT})"]


def test_problems_of_the_lease_daemon_have_the_kind_that_it_names() -> None:
    kinds = {"too late": LATE, "a foreign key": FOREIGN_KEY, "new": "of a newer daemon"}
    state = KeeperState(
        "w1", 1, (), (), (), 0, False, {}, problems=("too late", "a foreign key", "new", "plain"), kinds=kinds
    )
    assert [(problem.message, problem.kind) for problem in daemon_problems(state)] == [
        ("too late", Fault.LATE), ("a foreign key", Fault.KEY), ("new", Fault.LEASE_DAEMON),
        ("plain", Fault.LEASE_DAEMON),
    ]  # fmt: skip
    assert daemon_problems(None) == []


def test_problems_of_objects_are_counted_as_such(tmp_path: Path) -> None:
    async def main() -> dict[str, Fault]:
        files = [("broken.yaml", "spec: ["), ("lost.yaml", LOST)]
        world = World(tmp_path, replace(parse(files), nodes=NODES))
        try:
            await world.open_all(lambda: world.state.applied is not None)
            return {problem.source: problem.kind for problem in world.problems()}
        finally:
            await world.close()

    found = asyncio.run(main())
    assert (found["broken.yaml"], found["lost.yaml"]) == (Fault.OBJECT, Fault.ORPHAN)


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
