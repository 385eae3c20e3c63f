"""Addresses on several nodes, one of which is lost: only its own move, and to the nodes that serve the fewest.

``SPREAD_SIZES`` in the environment gives other clusters than that of CI: ``2x1 8x24`` are two egress nodes with one
address, and eight with 24.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from gateway_agent.lease.placement.masterless import REBALANCE_WINDOW_NS
from gateway_agent.lease.voting.protocol import SECOND

from ..lab import documents, topology
from ..lab.lab import Lab
from ..lab.waiting import until
from .conftest import GATEWAY, settled

SIZES = os.environ.get("SPREAD_SIZES", "3x9").split()
LARGE = 4
"""Largest number of egress nodes whose lease daemons renew leases of 250 ms in time on two processors."""
LONGER = {"lease": {"heartbeat": "200ms", "duration": "1s"}}


@pytest.fixture(scope="module", params=SIZES)
def lab(plugin: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    nodes, addresses = map(int, request.param.split("x"))
    objects = documents.virtual_ip(topology.virtual_addresses(addresses), GATEWAY)
    machines = topology.separate(workers=1, gateways=nodes)
    options = LONGER if nodes > LARGE else None
    with settled(f"test_spread-{request.param}", machines, options, objects) as made:
        yield made


def masters(lab: Lab) -> dict[str, str]:
    """Return the masters by address, as the worker sees them."""
    return {egress["ip"]: egress["master"] for egress in lab.nodes["w1"].agent.status()["egressIPs"]}


def loads(lab: Lab, nodes: Collection[str]) -> list[int]:
    """Return how many addresses each of these nodes serves, sorted; nothing while an address has another master."""
    serving = list(masters(lab).values())
    return sorted(serving.count(node) for node in nodes) if set(serving) <= set(nodes) else []


def egress_nodes(lab: Lab) -> list[str]:
    return [name for name, node in lab.nodes.items() if node.host.is_egress]


def filled(loads: Collection[int], more: int) -> list[int]:
    """Return the loads, sorted, after each of some more addresses has gone to a node that serves the fewest."""
    found = sorted(loads)
    for _ in range(more):
        found[0] += 1
        found.sort()
    return found


def held(lab: Lab) -> dict[str, list[str]]:
    """Return by address the nodes that have it in their kernel."""
    found: dict[str, list[str]] = {address: [] for address in masters(lab)}
    for name in egress_nodes(lab):
        for device in json.loads(lab.nodes[name].machine.run("ip", "-j", "-4", "address", "show")):
            for own in device["addr_info"]:
                found.get(own["local"], []).append(name)
    return found


def all_settled(lab: Lab) -> bool:
    """Return True if what was taken over last is too old to be evened out."""
    changes = [e["at"] for e in json.loads(lab.nodes["w1"].egressctl("-o", "json", "events"))]
    return time.time() > max(map(_seconds, changes)) + 1 + REBALANCE_WINDOW_NS / SECOND


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def lose_one(lab: Lab) -> str:
    """Cut a node off that serves an address, check what moves and whereto, and return it in words."""
    before = masters(lab)
    lost = next(iter(before.values()))
    survivors = [name for name in egress_nodes(lab) if name != lost]
    homeless = [address for address, master in before.items() if master == lost]
    expected = filled([list(before.values()).count(name) for name in survivors], len(homeless))
    lab.cut(lost)
    try:
        struck = time.monotonic()
        until(lambda: loads(lab, survivors) == expected, f"the survivors serve {expected}")
        taken = time.monotonic() - struck
        after = masters(lab)
        until(lambda: held(lab) == {a: [m] for a, m in after.items()}, "each is in its master's kernel alone")
        assert {a for a, m in after.items() if before[a] != m} == set(homeless)
    finally:
        lab.mend(lost)
    return (
        f"{len(homeless)} of {len(before)} moved, the survivors serve {expected} after {taken * 1000:.0f} ms"
    )


def test_in_the_first_seconds_after_the_start_only_what_is_lost_moves(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = egress_nodes(lab)
    even = filled([0] * len(nodes), len(masters(lab)))
    until(lambda: loads(lab, nodes) == even, "all addresses are spread evenly over the nodes")
    report = lose_one(lab)
    with capsys.disabled():
        print(f"\n{len(nodes)} nodes, in the first seconds: {report}")


def test_long_after_the_start_only_what_is_lost_moves(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """The node that was lost before is back."""
    lab.wait_settled(GATEWAY)
    until(lambda: all_settled(lab), "no address is young", 60)
    report = lose_one(lab)
    with capsys.disabled():
        print(f"\n{len(egress_nodes(lab))} nodes, long after: {report}")
