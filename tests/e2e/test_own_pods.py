"""Pods that run on egress nodes: their connections begin at the master itself or in a tunnel, and cannot change over.

At a handover they end, and are told at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.connections import Connections, fates
from ..lab.lab import SELECTED, Lab
from ..lab.silence import longest
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

ADDRESS = "172.16.0.50"
COUNT = 20
PROMPT_S = 4.0
"""Seconds until the node's own routes have followed, and some of the intervals in which TCP sends again."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([ADDRESS], GATEWAY, connection_sync=True)
    with settled("test_own_pods", topology.separate(workers=1, gateways=3), objects=objects) as made:
        yield made


@pytest.mark.parametrize("place", ["the old master", "the new master"])
def test_connections_of_its_pods_end_with_a_reset(lab: Lab, place: str) -> None:
    master = lab.wait_settled(GATEWAY, 40)
    target = next(name for name in ("g1", "g2", "g3") if name != master)
    node = lab.nodes[master if place == "the old master" else target]
    pod = node.pod(f"backend-{place[4:7]}", BACKEND)
    until(lambda: pod.request(SELECTED).address == ADDRESS, "its routes lead to the master")
    log = lab.directory / "connections.log"
    with lab.capture() as capture, Connections(pod.machine, log, SELECTED, COUNT, grace=1.0) as connections:
        struck = time.time_ns()
        answer = json.loads(lab.nodes["w1"].egressctl("-o", "json", "handover", GATEWAY, "--to", target))
        assert answer["master"] == target
        until(lambda: time.time_ns() > struck + PROMPT_S * 1e9, "each has had its turn")
        outcome = fates(connections.stop(), struck)
        assert (outcome.reset, outcome.hung) == (COUNT, 0)
        assert set(outcome.errors) == {"ECONNRESET"}
        assert pod.request(SELECTED).address == ADDRESS, "a new one goes at once"
        with lab.probing(pod) as probing:
            seen = len(capture.packets(SELECTED))
            until(lambda: len(capture.packets(SELECTED)) > seen + 500, "probes go")
            probes = probing.stop()
        assert longest(probes).lost == 0
        assert capture.sources(SELECTED) == {ADDRESS}
