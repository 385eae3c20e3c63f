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
from gateway_agent.core import reach, reflector, roll
from gateway_agent.core.cluster import resources
from gateway_agent.core.model import Inventory
from gateway_agent.core.planning import identify, never_sent
from gateway_agent.core.view import View
from gateway_agent.reporting import ClusterReport
from gateway_agent.shell import kube
from gateway_agent.shell.kube import Api
from gateway_agent.store import NotKnown
from tests.lab import documents
from tests.lab.apiserver.local import LocalServer, serving
from tests.lab.topology import VIRTUAL
from tests.unit.core import test_conditions as conditions

GROUP, NAMESPACE = "egress-gateway.io", "egress-gateway"
ROLL = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{roll.NAME}"
GATEWAYS, POLICIES = (f"/apis/{GROUP}/v1alpha1/{plural}" for plural in ("egressgateways", "egressgatewaypolicies"))


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
    with serving(directory) as server:
        server.cluster.namespace("prod")
        before(server)
        asyncio.run(reading(directory, server, tell))


async def reading(directory: Path, server: LocalServer, tell: Story) -> None:
    file = directory / "last-known.json"
    reader = Reader(ClusterStore(Api(server.kubeconfig), resources(GROUP, "w1", NAMESPACE), file), file)
    task = asyncio.create_task(reader.run())
    telling = asyncio.create_task(tell(reader, server))
    await asyncio.wait([task, telling], return_when=asyncio.FIRST_COMPLETED, timeout=30)
    assert task.done() or telling.done(), "the story did not end"
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
    server.cluster.apply(documents.policy(name, "partner", {"app": "backend"}))


def pod(server: LocalServer, name: str, **labels: str) -> str:
    return server.cluster.run("prod", name, "w1", labels)


def policies(inventory: Inventory) -> list[str]:
    return [policy.name for policy in inventory.policies]


def troubles(inventory: Inventory) -> dict[str, str]:
    return {problem.path: problem.message for problem in inventory.problems if problem.source == "Kubernetes API"}


def labels(inventory: Inventory | None, name: str) -> object:
    assert inventory is not None
    return next((pod.labels for pod in inventory.pods if pod.name == name), None)


def asked(server: LocalServer, what: str) -> int:
    return sum(count for request, count in server.cluster.requests().items() if what in request)


def test_changes_come_by_the_watch_and_nothing_is_listed_twice(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: not policies(inventory))
        policy(server)
        pod(server, "a", app="backend")
        await reader.until(lambda inventory: policies(inventory) and labels(inventory, "a"))
        server.cluster.label("prod", "a", {"app": "other"})
        await reader.until(lambda inventory: labels(inventory, "a") == {"app": "other"})
        server.cluster.delete(f"{POLICIES}/backend")
        await reader.until(lambda inventory: not policies(inventory))
        # A server that does not have the kind is asked for it three times.
        lists = {request: count for request, count in server.cluster.requests().items() if "watch" not in request}
        assert lists.pop("GET /apis/networking.k8s.io/v1/servicecidrs") <= reflector.DENIALS
        assert set(lists.values()) == {1}

    story(tmp_path, tell)


def test_a_status_that_is_written_changes_nothing(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        before = len(reader.seen)
        server.cluster.call("PATCH", f"{POLICIES}/backend/status", {"status": {"attachedPods": 5}})
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
        server.cluster.strike(**fault)
        server.cluster.drop()
        # What the end of the watch looks like may be told before it.
        inventory = await reader.until(
            lambda inventory: str(fault["status"]) in troubles(inventory).get("egressgatewaypolicies", "")
        )
        assert policies(inventory) == ["backend"]
        policy(server, "meanwhile")
        server.cluster.strike()
        await reader.until(lambda inventory: "meanwhile" in policies(inventory))
        await reader.until(lambda inventory: not troubles(inventory))
        assert asked(server, "GET /api/v1/nodes") - asked(server, "nodes (watch)") == 1

    story(tmp_path, tell, policy)


def test_a_watch_that_hangs_from_its_start_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "ANSWER", 0.3)

    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.cluster.strike(hang=True)
        server.cluster.drop()
        await reader.until(lambda inventory: set(troubles(inventory).values()) == {"no answer in time"})
        server.cluster.strike()
        policy(server, "meanwhile")
        await reader.until(lambda inventory: "meanwhile" in policies(inventory) and not troubles(inventory))

    story(tmp_path, tell, policy)


def test_history_that_is_lost_is_listed_anew(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        policy(server, "next")
        server.cluster.delete(f"{POLICIES}/backend")
        server.cluster.compact()
        await reader.until(lambda inventory: policies(inventory) == ["next"])

    story(tmp_path, tell, policy)


def test_a_trouble_that_is_over_is_not_told_any_more(tmp_path: Path) -> None:
    """Also where nothing has changed meanwhile."""

    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        known, number = len(reader.seen), 0
        while not any(troubles(inventory) for inventory in reader.seen[known:]):
            server.cluster.call("PATCH", "/api/v1/nodes/w1", {"metadata": {"annotations": {"n": str(number)}}})
            server.cluster.compact()
            number += 1
            await asyncio.sleep(0.02)
        await reader.until(lambda inventory: not troubles(inventory))

    def before(server: LocalServer) -> None:
        policy(server)
        server.cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "w1"}})

    story(tmp_path, tell, before)


def test_a_stale_list_takes_nothing_back(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        policy(server, "next")
        await reader.until(lambda inventory: "next" in policies(inventory))
        known = len(reader.seen)
        server.cluster.strike(match="egressgatewaypolicies?", stale=True)
        number = 0
        while "older than what is known" not in troubles(reader.seen[-1]).get("egressgatewaypolicies", ""):
            # A watch that has just had a bookmark has missed nothing.
            server.cluster.namespace(f"more-{(number := number + 1)}")
            server.cluster.compact()
            await asyncio.sleep(0.02)
        server.cluster.strike()
        policy(server, "last")
        await reader.until(lambda inventory: "last" in policies(inventory) and not troubles(inventory))
        assert all("next" in policies(inventory) for inventory in reader.seen[known:])

    story(tmp_path, tell, policy)


def test_networks_of_services_where_the_server_has_the_kind(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        inventory = await reader.until(lambda inventory: inventory.service_cidrs)
        assert inventory.service_cidrs == ("10.96.0.0/16", "fd00:96::/108")
        assert never_sent(inventory, ())["10.96.0.0/16"] == "cluster network"
        # Another server, which is older, or something else that answers in its place.
        server.cluster.strike(match="servicecidrs", status=404)
        server.cluster.drop()
        inventory = await reader.until(lambda inventory: {*troubles(inventory)} == {"servicecidrs"})
        assert inventory.service_cidrs

    def before(server: LocalServer) -> None:
        if not server.cluster.has("networking.k8s.io/v1", "servicecidrs"):
            pytest.skip("this server is older than ServiceCIDR")
        metadata, spec = {"name": "kubernetes"}, {"cidrs": ["10.96.0.0/16", "fd00:96::/108"]}
        document = {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": metadata, "spec": spec}
        server.cluster.apply(document)

    story(tmp_path, tell, before)


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [("servicecidrs", 404, set()), ("servicecidrs", 403, {"servicecidrs"}), ("configmaps", 403, {"configmaps"})],
)
def test_an_agent_does_without_what_the_server_does_not_show(
    tmp_path: Path, kind: str, status: int, told: set[str]
) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: policies(inventory) and {*troubles(inventory)} == told)

    def before(server: LocalServer) -> None:
        policy(server)
        server.cluster.strike(match=kind, status=status)

    story(tmp_path, tell, before)


def test_an_agent_waits_for_what_the_server_cannot_show_yet(tmp_path: Path) -> None:
    """Its first inventory has all: with half of it packets would take a wrong way."""

    async def tell(reader: Reader, server: LocalServer) -> None:
        while asked(server, "servicecidrs") < 3:
            await asyncio.sleep(0.01)
        assert not reader.seen
        server.cluster.strike()
        await reader.until(policies)

    def before(server: LocalServer) -> None:
        policy(server)
        server.cluster.strike(match="servicecidrs", status=503)

    story(tmp_path, tell, before)


def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.stop()
        inventory = await reader.until(troubles)
        assert policies(inventory) == ["backend"]
        policy(server, "meanwhile")
        server.start()
        await reader.until(lambda inventory: "meanwhile" in policies(inventory))

    story(tmp_path, tell, policy)


def test_what_was_known_outlives_the_process(tmp_path: Path) -> None:
    async def first(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        assert reader.file.stat().st_mode & 0o777 == 0o600

    async def second(reader: Reader, server: LocalServer) -> None:
        assert troubles(await reader.until(policies))
        assert labels(await reader.store.for_pod("prod", "a", ""), "a") == {"app": "backend"}

    with serving(tmp_path) as server:
        server.cluster.namespace("prod")
        policy(server)
        pod(server, "a", app="backend")
        asyncio.run(reading(tmp_path, server, first))
        server.stop()
        asyncio.run(reading(tmp_path, server, second))


def test_a_pod_that_the_watch_has_not_told_of_is_asked_for_once(tmp_path: Path) -> None:
    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: True)
        server.cluster.strike(match="pods", deaf=True)
        uid = pod(server, "a", app="backend")
        assert labels(await reader.store.for_pod("prod", "a", uid), "a") == {"app": "backend"}
        assert labels(await reader.store.for_pod("prod", "a", uid), "a") == {"app": "backend"}
        assert asked(server, "namespaces/prod/pods/a") == 1
        server.cluster.remove("prod", "a")
        uid = pod(server, "a", app="another")
        assert labels(await reader.store.for_pod("prod", "a", uid), "a") == {"app": "another"}
        server.cluster.strike()
        await reader.until(lambda inventory: labels(inventory, "a") == {"app": "another"})
        server.cluster.label("prod", "a", {"app": "edited"})
        await reader.until(lambda inventory: labels(inventory, "a") == {"app": "edited"})
        assert labels(await reader.store.for_pod("prod", "a", uid), "a") == {"app": "edited"}
        server.cluster.remove("prod", "a")
        await reader.until(lambda inventory: labels(inventory, "a") is None)

    story(tmp_path, tell)


def test_a_pod_whose_name_another_one_had_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "FOR_POD", 0.3)

    async def tell(reader: Reader, server: LocalServer) -> None:
        before = await reader.until(lambda inventory: labels(inventory, "a"))
        old = before.uids["prod", "a"]
        server.cluster.strike(hang=True)
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
        server.cluster.strike(match="egressgatewaypolicies?watch", latency=0.2)
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
        server.cluster.strike(match="watch", deaf=True)
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
        server.cluster.strike(**fault)
        assert labels(await reader.store.for_pod("prod", "known", ""), "known") == {"app": "backend"}
        assert labels(await reader.store.for_pod("prod", "unknown", ""), "unknown") is None

    def before(server: LocalServer) -> None:
        pod(server, "known", app="backend")

    story(tmp_path, tell, before)


def test_statuses_and_events_are_written_once(tmp_path: Path) -> None:
    """The view of a master; its gateway stands in the cluster, and a policy that names another one."""
    seen = conditions.seen(changes=(conditions.changed("g1", at=time.time() + 60),))
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
        while not server.cluster.events():
            assert not task.done()
            await asyncio.sleep(0.01)
        gateway = server.cluster.call("GET", f"{GATEWAYS}/partner")
        assert gateway["status"]["activeNodeName"] == "g1"
        assert gateway["spec"] == documents.virtual_gateway("partner", [VIRTUAL])["spec"]
        enough = looks + 10
        while looks < enough:
            assert not task.done()
            await asyncio.sleep(0.01)
        assert (asked(server, "/status"), asked(server, "PATCH")) == (2, 3)
        [event] = server.cluster.events()
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
        server.cluster.strike(match="watch", deaf=True)
        task = asyncio.create_task(ClusterReport(Api(server.kubeconfig), reader.store, view).run())
        # Times of conditions have whole seconds.
        wanted = int(time.time()) + 2
        while time.time() < wanted or looks < 10:
            assert not task.done()
            await asyncio.sleep(0.01)
        assert (asked(server, "/status"), asked(server, "PATCH")) == (2, 3)
        task.cancel()

    story(tmp_path, tell, reported)


@pytest.mark.parametrize(("standing", "written"), [("", True), ("1", False)])
def test_the_voters_are_written_by_compare_and_swap(tmp_path: Path, standing: str, written: bool) -> None:
    """The other writer comes between: the watch has not told of what it has written."""
    looks = 0

    def view() -> View:
        nonlocal looks
        looks += 1
        return conditions.seen()

    async def tell(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.cluster.strike(match="configmaps?", deaf=True)
        if standing:
            server.cluster.call("PATCH", ROLL, {"data": {"version": standing, "members": "x y z"}})
        task = asyncio.create_task(ClusterReport(Api(server.kubeconfig), reader.store, view).run())
        while looks < 10:
            assert not task.done()
            await asyncio.sleep(0.01)
        keeper = conditions.seen().keeper
        assert keeper is not None
        agreed = {"version": str(keeper.voter_set), "members": " ".join(keeper.voters)}
        other = {"version": standing, "members": "x y z"}
        assert server.cluster.call("GET", ROLL)["data"] == (agreed if written else other)
        assert asked(server, f"PATCH {ROLL}") == 1
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
        enough = 0
        while not enough or looks < enough:
            assert not task.done()
            await asyncio.sleep(0.01)
            if not enough and server.cluster.events("SelectsNothing"):
                enough = looks + 20
        told = [event["involvedObject"]["name"] for event in server.cluster.events("SelectsNothing")]
        assert told == ["both"]
        assert asked(server, "GET /api/v1/pods") - asked(server, "pods (watch)") == 1 + 2
        task.cancel()

    def before(server: LocalServer) -> None:
        reported(server)
        server.cluster.apply(documents.policy("chosen", "partner", {"app": "another"}))
        server.cluster.run("prod", "a", "w9", {"app": "another"})

    story(tmp_path, tell, before)


def reported(server: LocalServer) -> None:
    """What the view of the master speaks of."""
    server.cluster.apply(documents.virtual_gateway("partner", [VIRTUAL]))
    policy(server, "both")
