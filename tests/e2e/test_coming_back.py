"""A connection that went on behind another master comes back to one that has seen its beginning only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.lab import SELECTED, Lab
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

ADDRESS = "172.16.0.50"
MUCH = 50 * ["x" * 60000]
"""Lines that exceed any window which the first master has seen."""


@pytest.fixture(params=[True, False], ids=["synced", "not synced"])
def lab(plugin: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    objects = documents.virtual_ip([ADDRESS], GATEWAY, connection_sync=request.param)
    with settled("test_coming_back", topology.separate(workers=1), objects=objects) as made:
        yield made


def known(lab: Lab, name: str) -> bool:
    """Whether the node's kernel knows a connection by the virtual address."""
    listed = lab.nodes[name].machine.run("conntrack", "-L", "-p", "tcp", "--reply-dst", ADDRESS)
    return f"dst={ADDRESS}" in listed


def test_a_busy_connection_goes_on_behind_a_master_that_had_it_before(
    lab: Lab, request: pytest.FixtureRequest
) -> None:
    first = lab.wait_settled(GATEWAY, 40)
    second = next(name for name in ("g1", "g2", "g3") if name != first)
    pod = lab.nodes["w1"].pod("backend-1", BACKEND)
    connection = until(lambda: pod.connect(SELECTED, 10), "the worker's routes lead to the master")
    for master in (second, first, second, first):
        lab.nodes["w1"].egressctl("handover", GATEWAY, "--to", master)
        until(lambda m=master: lab.master(GATEWAY) == m, "all know it")  # type: ignore[misc]
        assert [connection.echo(line) for line in MUCH] == MUCH
    assert known(lab, first)
    if "not synced" in request.node.name:
        until(lambda: not known(lab, second), "who will not hear of it any more forgets it", 60)
        assert connection.echo("still there") == "still there"
    connection.close()
