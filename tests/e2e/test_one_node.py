"""A cluster of one node: nothing comes by a tunnel, and the node's own pods leave by the gateway."""

from __future__ import annotations

from pathlib import Path

from ..lab import documents, topology
from ..lab.lab import SELECTED
from ..lab.topology import VIRTUAL
from .conftest import BACKEND, settled


def test_the_pods_of_the_only_node_leave_by_its_gateway(plugin: Path) -> None:
    with settled("test_one_node", topology.separate(0, 1), objects=documents.virtual_ip([VIRTUAL])) as lab:
        assert lab.nodes["g1"].pod("client", BACKEND).request(SELECTED).address == VIRTUAL
