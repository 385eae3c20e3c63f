"""What tests of the Kubernetes store and of its reports have in common: a server, a store that reads it, a scenario."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway_agent.kubernetes import cluster_store, reflector, reporter
from gateway_agent.kubernetes.client import Api
from gateway_agent.kubernetes.cluster_store import ClusterStore
from gateway_agent.kubernetes.objects import resources
from gateway_agent.manifests.model import Inventory
from tests.lab import documents
from tests.lab.apiserver.local import LocalServer, serving

GROUP, NAMESPACE = "egress-gateway.io", "egress-gateway"
GATEWAYS, POLICIES = (
    f"/apis/{GROUP}/v1alpha1/{plural}" for plural in ("egressgateways", "egressgatewaypolicies")
)


class Reader:
    """Takes each inventory of a store."""

    def __init__(self, store: ClusterStore, file: Path) -> None:
        self.store = store
        self.file = file
        self.seen: list[Inventory] = []
        self._news = asyncio.Condition()

    async def run(self) -> None:
        async for inventory in self.store.inventories():
            # What counts is on disk before it does: this process may end here.
            assert {pod.name for pod in inventory.pods} <= self.kept("Pod")
            assert set(policies(inventory)) <= self.kept("EgressGatewayPolicy")
            self.seen.append(inventory)
            async with self._news:
                self._news.notify_all()

    def kept(self, kind: str) -> set[str]:
        return {item["metadata"]["name"] for item in json.loads(self.file.read_text())[kind]}

    async def until(self, condition: Callable[[Inventory], object]) -> Inventory:
        async with asyncio.timeout(10), self._news:
            await self._news.wait_for(lambda: self.seen and condition(self.seen[-1]))
        return self.seen[-1]


Scenario = Callable[[Reader, LocalServer], Awaitable[None]]


def run_scenario(
    directory: Path, scenario: Scenario, before: Callable[[LocalServer], None] = lambda server: None
) -> None:
    with serving(directory) as server:
        server.cluster.namespace("prod")
        before(server)
        asyncio.run(reading(directory, server, scenario))


async def reading(directory: Path, server: LocalServer, scenario: Scenario) -> None:
    """Run a scenario with a store of node w1 that reads the server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reflector, "FIRST_BACKOFF_S", 0.05)
        patch.setattr(reflector, "MAX_BACKOFF_S", 0.2)
        patch.setattr(cluster_store, "FIRST_LISTS_TIMEOUT_S", 0.5)
        patch.setattr(reporter, "POLL_INTERVAL_S", 0.02)
        await _run(directory, server, scenario)


async def _run(directory: Path, server: LocalServer, scenario: Scenario) -> None:
    file = directory / "last-known.json"
    reader = Reader(ClusterStore(Api(server.kubeconfig), resources(GROUP, "w1", NAMESPACE), file), file)
    task = asyncio.create_task(reader.run())
    running = asyncio.ensure_future(scenario(reader, server))
    await asyncio.wait([task, running], return_when=asyncio.FIRST_COMPLETED, timeout=30)
    assert task.done() or running.done(), "the scenario did not end"
    for part in (task, running):
        part.cancel()
    for outcome in await asyncio.gather(task, running, return_exceptions=True):
        # What ``pytest.raises`` raises where nothing was raised is no ``Exception``.
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome


def policy(server: LocalServer, name: str = "backend") -> None:
    server.cluster.apply(documents.policy(name, "partner", {"app": "backend"}))


def policies(inventory: Inventory) -> list[str]:
    return [policy.name for policy in inventory.policies]


def troubles(inventory: Inventory) -> dict[str, str]:
    return {
        problem.path: problem.message for problem in inventory.problems if problem.source == "Kubernetes API"
    }


def asked(server: LocalServer, what: str) -> int:
    return sum(count for request, count in server.cluster.requests().items() if what in request)
