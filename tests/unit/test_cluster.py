"""The Kubernetes store against a server that speaks the API, well and badly."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway_agent import cluster, reporting
from gateway_agent.cluster import ClusterStore
from gateway_agent.core import reach, reflector
from gateway_agent.core.model import Inventory
from gateway_agent.core.planning import identify
from gateway_agent.core.view import View
from gateway_agent.reporting import ClusterReport
from gateway_agent.shell import kube
from gateway_agent.shell.kube import Api
from gateway_agent.store import NotKnown
from tests.lab import documents
from tests.lab.apiserver.local import LocalServer, serving
from tests.lab.topology import VIRTUAL
from tests.unit.core import test_conditions as conditions

GROUP = "egress-gateway.io"
OURS = f"{GROUP}/v1alpha1"


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


Story = Callable[[Reader, LocalServer], Awaitable[None]]


def story(directory: Path, tell: Story, before: Callable[[LocalServer], None] = lambda server: None) -> None:
    async def whole() -> None:
        async with serving(directory) as server:
            server.create("v1", "namespaces", "prod")
            before(server)
            await reading(directory, server, tell)

    asyncio.run(whole())


async def reading(directory: Path, server: LocalServer, tell: Story) -> None:
    file = directory / "last-known.json"
    reader = Reader(ClusterStore(Api(server.kubeconfig), GROUP, "w1", file), file)
    task = asyncio.create_task(reader.run())
    telling = asyncio.create_task(tell(reader, server))
    await asyncio.wait([task, telling], return_when=asyncio.FIRST_COMPLETED)
    for part in (task, telling):
        part.cancel()
    for outcome in await asyncio.gather(task, telling, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(reflector, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    monkeypatch.setattr(reporting, "LOOK", 0.02)


def policy(server: LocalServer, name: str = "backend") -> None:
    document = documents.policy(name, "partner", {"app": "backend"})
    server.create(OURS, "egressgatewaypolicies", name, spec=document["spec"])


def pod(server: LocalServer, name: str, **labels: str) -> str:
    made = server.create("v1", "pods", name, "prod", metadata={"labels": labels}, spec={"nodeName": "w1"})
    return str(made["metadata"]["uid"])


def policies(inventory: Inventory) -> list[str]:
    return [policy.name for policy in inventory.policies]


def troubles(inventory: Inventory) -> dict[str, str]:
    return {problem.path: problem.message for problem in inventory.problems if problem.source == "Kubernetes API"}


def labels(inventory: Inventory | None, name: str) -> object:
    assert inventory is not None
    return next((pod.labels for pod in inventory.pods if pod.name == name), None)


def asked(server: LocalServer, what: str) -> int:
    return sum(count for request, count in server.server.requests.items() if what in request)


def test_changes_come_by_the_watch_and_nothing_is_listed_twice(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: not policies(inventory))
        policy(server)
        pod(server, "a", app="backend")
        await reader.until(lambda inventory: policies(inventory) and labels(inventory, "a"))
        server.merge("v1", "pods", "a", "prod", metadata={"labels": {"app": "other"}})
        await reader.until(lambda inventory: labels(inventory, "a") == {"app": "other"})
        server.delete(OURS, "egressgatewaypolicies", "backend")
        await reader.until(lambda inventory: not policies(inventory))
        assert {count for request, count in server.server.requests.items() if "watch" not in request} == {1}

    story(tmp_path, tell)


def test_a_status_that_is_written_changes_nothing(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        before = len(reader.seen)
        objects = server.server.objects
        collection = objects.collections[OURS, "egressgatewaypolicies"]
        objects.merge(collection, "", "backend", {"status": {"attachedPods": 5}}, "status")
        policy(server, "next")
        await reader.until(lambda inventory: "next" in policies(inventory))
        assert len(reader.seen) == before + 1

    story(tmp_path, tell, policy)


@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"status": 429, "retry_after": 1}, {"match": "egressgatewaypolicies", "status": 503}]
)
def test_errors_keep_what_is_known_and_are_told(tmp_path: Path, fault: dict[str, Any]) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.strike(**fault)
        server.server.drop()
        # What the end of the watch looks like may be told before it.
        inventory = await reader.until(
            lambda inventory: str(fault["status"]) in troubles(inventory).get("egressgatewaypolicies", "")
        )
        assert policies(inventory) == ["backend"]
        policy(server, "meanwhile")
        server.strike()
        await reader.until(lambda inventory: "meanwhile" in policies(inventory))
        await reader.until(lambda inventory: not troubles(inventory))
        assert asked(server, "GET /api/v1/nodes") - asked(server, "nodes (watch)") == 1

    story(tmp_path, tell, policy)


def test_a_watch_that_hangs_from_its_start_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "ANSWER", 0.3)

    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.strike(hang=True)
        server.server.drop()
        await reader.until(lambda inventory: set(troubles(inventory).values()) == {"no answer in time"})
        server.strike()
        policy(server, "meanwhile")
        await reader.until(lambda inventory: "meanwhile" in policies(inventory) and not troubles(inventory))

    story(tmp_path, tell, policy)


def test_history_that_is_lost_is_listed_anew(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        policy(server, "next")
        server.delete(OURS, "egressgatewaypolicies", "backend")
        server.server.compact()
        await reader.until(lambda inventory: policies(inventory) == ["next"])

    story(tmp_path, tell, policy)


def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        await server.stop()
        inventory = await reader.until(troubles)
        assert policies(inventory) == ["backend"]
        policy(server, "meanwhile")
        await server.start()
        await reader.until(lambda inventory: "meanwhile" in policies(inventory))

    story(tmp_path, tell, policy)


def test_what_was_known_outlives_the_process(tmp_path: Path) -> None:
    async def first(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        assert reader.file.stat().st_mode & 0o777 == 0o600

    async def second(reader: Reader, server: LocalServer) -> None:
        assert troubles(await reader.until(policies))
        assert labels(await reader.store.for_pod("prod", "a", ""), "a") == {"app": "backend"}

    async def whole() -> None:
        async with serving(tmp_path) as server:
            server.create("v1", "namespaces", "prod")
            policy(server)
            pod(server, "a", app="backend")
            await reading(tmp_path, server, first)
            await server.stop()
            await reading(tmp_path, server, second)

    asyncio.run(whole())


def test_a_pod_that_the_watch_has_not_told_of_is_asked_for_once(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: True)
        server.strike(match="pods", deaf=True)
        uid = pod(server, "a", app="backend")
        assert labels(await reader.store.for_pod("prod", "a", uid), "a") == {"app": "backend"}
        assert labels(await reader.store.for_pod("prod", "a", uid), "a") == {"app": "backend"}
        assert asked(server, "namespaces/prod/pods/a") == 1
        server.delete("v1", "pods", "a", "prod")
        uid = pod(server, "a", app="another")
        assert labels(await reader.store.for_pod("prod", "a", uid), "a") == {"app": "another"}
        server.strike()
        await reader.until(lambda inventory: labels(inventory, "a") == {"app": "another"})
        server.merge("v1", "pods", "a", "prod", metadata={"labels": {"app": "edited"}})
        await reader.until(lambda inventory: labels(inventory, "a") == {"app": "edited"})
        assert labels(await reader.store.for_pod("prod", "a", uid), "a") == {"app": "edited"}
        server.delete("v1", "pods", "a", "prod")
        await reader.until(lambda inventory: labels(inventory, "a") is None)

    story(tmp_path, tell)


def test_a_pod_whose_name_another_one_had_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "FOR_POD", 0.3)

    async def tell(reader: Reader, server: LocalServer) -> None:
        before = await reader.until(lambda inventory: labels(inventory, "a"))
        old = before.uids["prod", "a"]
        server.strike(hang=True)
        inventory = await reader.store.for_pod("prod", "a", "new")
        assert inventory is not None
        assert identify(inventory, "prod", "a", None, "new").labels is None
        assert identify(inventory, "prod", "a", None, old).labels == {"app": "backend"}

    def begin(server: LocalServer) -> None:
        pod(server, "a", app="backend")

    story(tmp_path, tell, begin)


def test_a_pod_sees_a_policy_that_was_there_before_it(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: True)
        server.strike(match="egressgatewaypolicies?watch", latency=0.2)
        for number in range(3):
            policy(server, f"policy-{number}")
            uid = pod(server, f"pod-{number}")
            inventory = await reader.store.for_pod("prod", f"pod-{number}", uid)
            assert inventory is not None
            assert f"policy-{number}" in reader.kept("EgressGatewayPolicy")
            assert f"pod-{number}" in reader.kept("Pod")
            assert f"policy-{number}" in policies(inventory)

    story(tmp_path, tell)


def test_a_policy_that_the_watch_does_not_tell_of_holds_a_pod_back(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: True)
        server.strike(match="watch", deaf=True)
        policy(server)
        with pytest.raises(NotKnown, match="EgressGatewayPolicy backend yet"):
            await reader.store.for_pod("prod", "a", pod(server, "a"))

    story(tmp_path, tell)


def test_a_pod_of_a_namespace_that_nobody_knows_is_held_back(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: True)
        with pytest.raises(NotKnown, match="Namespace other yet"):
            await reader.store.for_pod("other", "a", "")

    story(tmp_path, tell)


@pytest.mark.parametrize("fault", [{"hang": True}, {"status": 500}])
def test_a_server_that_does_not_answer_delays_a_pod_and_no_more(
    tmp_path: Path, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "FOR_POD", 0.3)

    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: labels(inventory, "known"))
        server.strike(**fault)
        assert labels(await reader.store.for_pod("prod", "known", ""), "known") == {"app": "backend"}
        assert labels(await reader.store.for_pod("prod", "unknown", ""), "unknown") is None

    def before(server: LocalServer) -> None:
        pod(server, "known", app="backend")

    story(tmp_path, tell, before)


def test_statuses_and_events_are_written_once(tmp_path: Path) -> None:
    """The view of a master; its gateway stands in the cluster, and a policy that names another one."""
    seen = conditions.seen(changes=(conditions.changed("g1"),))
    looks = 0

    def view() -> View:
        nonlocal looks
        looks += 1
        return seen if looks > 1 else conditions.seen()

    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        api = Api(server.kubeconfig)
        report = ClusterReport(api, reader.store, view)
        task = asyncio.create_task(report.run())
        objects = server.server.objects
        while not objects.collections["v1", "events"].objects:
            assert not task.done()
            await asyncio.sleep(0.01)
        gateway = objects.collections[OURS, "egressgateways"].objects["", "partner"]
        assert gateway["status"]["activeNodeName"] == "g1"
        assert gateway["spec"] == documents.virtual_gateway("partner", [VIRTUAL])["spec"]
        enough = looks + 10
        while looks < enough:
            assert not task.done()
            await asyncio.sleep(0.01)
        assert asked(server, "PATCH") == 2
        [event] = objects.collections["v1", "events"].objects.values()
        assert (event["reason"], event["involvedObject"]["uid"]) == ("MasterChanged", gateway["metadata"]["uid"])
        task.cancel()

    story(tmp_path, tell, reported)


def test_a_status_is_written_once_also_while_the_watch_is_late(tmp_path: Path) -> None:
    looks = 0

    def view() -> View:
        nonlocal looks
        looks += 1
        return conditions.seen()

    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.strike(match="watch", deaf=True)
        task = asyncio.create_task(ClusterReport(Api(server.kubeconfig), reader.store, view).run())
        # Times of conditions have whole seconds.
        wanted = int(time.time()) + 2
        while time.time() < wanted or looks < 10:
            assert not task.done()
            await asyncio.sleep(0.01)
        assert asked(server, "PATCH") == 2
        task.cancel()

    story(tmp_path, tell, reported)


def test_a_policy_that_selects_nothing_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "SETTLED", 0.05)

    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        looks = 0

        def view() -> View:
            nonlocal looks
            looks += 1
            return replace(conditions.seen(), inventory=reader.seen[-1])

        task = asyncio.create_task(ClusterReport(Api(server.kubeconfig), reader.store, view).run())
        events = server.server.objects.collections["v1", "events"].objects
        enough = 0
        while not enough or looks < enough:
            assert not task.done()
            await asyncio.sleep(0.01)
            if not enough and [e for e in events.values() if e["reason"] == "SelectsNothing"]:
                enough = looks + 20
        told = [e["involvedObject"]["name"] for e in events.values() if e["reason"] == "SelectsNothing"]
        assert told == ["both"]
        assert asked(server, "GET /api/v1/pods") - asked(server, "pods (watch)") == 1 + 2
        task.cancel()

    def before(server: LocalServer) -> None:
        reported(server)
        document = documents.policy("chosen", "partner", {"app": "another"})
        server.create(OURS, "egressgatewaypolicies", "chosen", spec=document["spec"])
        server.create("v1", "pods", "a", "prod", metadata={"labels": {"app": "another"}}, spec={"nodeName": "w9"})

    story(tmp_path, tell, before)


def reported(server: LocalServer) -> None:
    """What the view of the master speaks of."""
    spec = documents.virtual_gateway("partner", [VIRTUAL])["spec"]
    server.create(OURS, "egressgateways", "partner", spec=spec)
    policy(server, "both")
