"""A cluster of one node: nothing comes by a tunnel, and the node's own pods leave by the gateway."""

from __future__ import annotations

import json
from pathlib import Path

from ..lab import documents, topology
from ..lab.agent import EGRESSCTL
from ..lab.lab import SELECTED
from ..lab.topology import VIRTUAL
from .conftest import BACKEND, settled


def test_the_pods_of_the_only_node_leave_by_its_gateway(plugin: Path) -> None:
    with settled("test_one_node", topology.separate(0, 1), objects=documents.virtual_ip([VIRTUAL])) as lab:
        node = lab.nodes["g1"]
        assert node.pod("client", BACKEND).request(SELECTED).address == VIRTUAL
        doctor = f"{EGRESSCTL} --config {node.agent.config} doctor -o json || true"
        findings = json.loads(node.machine.run("sh", "-c", doctor))
        [path] = [each for each in findings if each["what"].startswith("path of ")]
        assert path["found"] == "not tested: this node is the only one, and no packets come by its tunnels"
        assert not path["wrong"]
