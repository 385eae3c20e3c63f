"""An agent's load on the Kubernetes API grows with the cluster in two counts only; any other growth fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.bench.api_load import Adds, Load, Measured, Traffic, between, load, table
from tests.bench.scale_lab import other_node
from tests.lab.apiserver.local import LocalServer

from ..kubernetes.cluster_scenario import Reader, policies, policy, run_scenario

AGENT = "127.0.0.1"
REST_S = 1.5
SIZES = (10, 60)
POLICIES = 3


def report(server: LocalServer, number: int) -> None:
    condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}
    path = f"/api/v1/nodes/x-other-{number}/status"
    server.cluster.call("PATCH", path, {"status": {"conditions": [condition]}})


async def bookmarked(server: LocalServer) -> None:
    """Wait for two bookmarks of the nodes' watch: the events before the second one are sent and counted."""
    before = server.cluster.traffic()
    while between(before, server.cluster.traffic(), AGENT, "bookmarks", "/nodes") < 2:
        await asyncio.sleep(0.05)


def counted(directory: Path, nodes: int) -> tuple[Load, int, int]:
    """Return the load of an agent's store, and the requests and listed objects of one ADD."""
    found: list[tuple[Load, int, int]] = []

    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: len(policies(inventory)) == POLICIES)
        counts: list[Traffic] = []
        await bookmarked(server)
        counts.append(server.cluster.traffic())
        await asyncio.sleep(REST_S)
        counts.append(server.cluster.traffic())
        for number in range(nodes):
            report(server, number)
        await bookmarked(server)
        counts.append(server.cluster.traffic())
        uid = server.cluster.run("prod", "web-0", "w1", {"app": "backend"})
        await reader.until(lambda inventory: inventory.pods)
        assert await reader.store.for_pod("prod", "web-0", uid) is not None
        after = server.cluster.traffic()
        requests, objects = (between(counts[-1], after, AGENT, what) for what in ("requests", "objects"))
        found.append((load(AGENT, counts, REST_S), requests, objects))

    def before(server: LocalServer) -> None:
        for number in range(nodes):
            server.cluster.apply(other_node(number))
        for number in range(POLICIES):
            policy(server, f"policy-{number}")

    run_scenario(directory, scenario, before)
    return found[0]


def test_only_the_nodes_themselves_and_their_reports_grow(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    (small, *small_add), (large, *large_add) = (
        counted(tmp_path_factory.mktemp("nodes"), nodes) for nodes in SIZES
    )
    grown = SIZES[1] - SIZES[0]
    # A list and a watch of each kind.
    assert (small.start_requests, large.start_requests) == (14, 14)
    assert large.start_objects - small.start_objects == grown
    assert (small.reports, large.reports) == SIZES
    assert (
        (large.rest_requests, large.other_events) == (small.rest_requests, small.other_events) == (0.0, 0.0)
    )
    assert small_add == large_add == [1, POLICIES]


def test_counts_become_counts_an_hour() -> None:
    start: Traffic = {"w1": {"requests": {"GET /x (watch)": 1, "GET /x": 1}, "objects": {"GET /x": 9}}}
    rest: Traffic = {"w1": {"requests": {"GET /x (watch)": 2, "GET /x": 3}, "events": {"GET /x (watch)": 1}}}
    end: Traffic = {"w1": {"events": {"GET /x (watch)": 1, "GET /nodes (watch)": 10}}}
    found = load("w1", (start, rest, end), 60)
    assert found == Load(2, 9, 1, 120.0, 10, 60.0)
    assert (found.requests, found.events) == (120 + 8, 10 * 12 + 60 + 60)
    shown = table([Measured(n, found, found, Adds(1, 100, 0.1 * n)) for n in (1, 3)])
    assert "| worker: **events an hour** | 240 | 240 |" in shown
    assert "| ADD, median, s | 0.100 | 0.300 (×3.00) |" in shown
