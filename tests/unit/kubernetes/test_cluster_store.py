"""The Kubernetes store against a server that speaks the API, well and badly."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway_agent.kubernetes import client, cluster_store, reflector
from gateway_agent.manifests.model import Inventory
from gateway_agent.manifests.store import NotKnown
from gateway_agent.policy.planner import identify, never_sent
from tests.lab.apiserver.local import LocalServer, serving

from .cluster_scenario import POLICIES, Reader, asked, policies, policy, reading, run_scenario, troubles


def pod(server: LocalServer, name: str, **labels: str) -> str:
    return server.cluster.run("prod", name, "w1", labels)


def labels(inventory: Inventory | None, name: str) -> object:
    assert inventory is not None
    return next((pod.labels for pod in inventory.pods if pod.name == name), None)


def test_changes_come_by_the_watch_and_nothing_is_listed_twice(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: not policies(inventory))
        policy(server)
        pod(server, "a", app="backend")
        await reader.until(lambda inventory: policies(inventory) and labels(inventory, "a"))
        server.cluster.label("prod", "a", {"app": "other"})
        await reader.until(lambda inventory: labels(inventory, "a") == {"app": "other"})
        server.cluster.delete(f"{POLICIES}/backend")
        await reader.until(lambda inventory: not policies(inventory))
        # A server that does not have the kind is asked for it three times.
        lists = {
            request: count for request, count in server.cluster.requests().items() if "watch" not in request
        }
        assert lists.pop("GET /apis/networking.k8s.io/v1/servicecidrs") <= reflector.MAX_DENIALS
        assert set(lists.values()) == {1}

    run_scenario(tmp_path, scenario)


def test_a_status_that_is_written_changes_nothing(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        before = len(reader.seen)
        server.cluster.call("PATCH", f"{POLICIES}/backend/status", {"status": {"attachedPods": 5}})
        policy(server, "next")
        await reader.until(lambda inventory: "next" in policies(inventory))
        assert len(reader.seen) == before + 1

    run_scenario(tmp_path, scenario, policy)


@pytest.mark.parametrize(
    "fault",
    [{"status": 500}, {"status": 429, "retry_after": 1}, {"match": "egressgatewaypolicies", "status": 503}],
)
def test_errors_keep_what_is_known_and_are_problems(tmp_path: Path, fault: dict[str, Any]) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
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

    run_scenario(tmp_path, scenario, policy)


def test_a_watch_that_hangs_from_its_start_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER_TIMEOUT_S", 0.3)

    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.cluster.strike(hang=True)
        server.cluster.drop()
        await reader.until(lambda inventory: set(troubles(inventory).values()) == {"no answer in time"})
        server.cluster.strike()
        policy(server, "meanwhile")
        await reader.until(lambda inventory: "meanwhile" in policies(inventory) and not troubles(inventory))

    run_scenario(tmp_path, scenario, policy)


def test_history_that_is_lost_is_listed_anew(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        policy(server, "next")
        server.cluster.delete(f"{POLICIES}/backend")
        server.cluster.compact()
        await reader.until(lambda inventory: policies(inventory) == ["next"])

    run_scenario(tmp_path, scenario, policy)


def test_a_trouble_that_is_over_is_not_reported_any_more(tmp_path: Path) -> None:
    """Also where nothing has changed meanwhile."""

    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        known, number = len(reader.seen), 0
        while not any(troubles(inventory) for inventory in reader.seen[known:]):
            server.cluster.call(
                "PATCH", "/api/v1/nodes/w1", {"metadata": {"annotations": {"n": str(number)}}}
            )
            server.cluster.compact()
            number += 1
            await asyncio.sleep(0.02)
        await reader.until(lambda inventory: not troubles(inventory))

    def before(server: LocalServer) -> None:
        policy(server)
        server.cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "w1"}})

    run_scenario(tmp_path, scenario, before)


def test_a_stale_list_takes_nothing_back(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        policy(server, "next")
        await reader.until(lambda inventory: "next" in policies(inventory))
        known = len(reader.seen)
        server.cluster.strike(match="egressgatewaypolicies?", stale=True)
        number = 0
        while "older than the known objects" not in troubles(reader.seen[-1]).get(
            "egressgatewaypolicies", ""
        ):
            # A watch that has just had a bookmark has missed nothing.
            server.cluster.namespace(f"more-{(number := number + 1)}")
            server.cluster.compact()
            await asyncio.sleep(0.02)
        server.cluster.strike()
        policy(server, "last")
        await reader.until(lambda inventory: "last" in policies(inventory) and not troubles(inventory))
        assert all("next" in policies(inventory) for inventory in reader.seen[known:])

    run_scenario(tmp_path, scenario, policy)


def test_networks_of_services_where_the_server_has_the_kind(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
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
        document = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": metadata,
            "spec": spec,
        }
        server.cluster.apply(document)

    run_scenario(tmp_path, scenario, before)


@pytest.mark.parametrize(
    ("kind", "status", "reported"),
    [
        ("servicecidrs", 404, set()),
        ("servicecidrs", 403, {"servicecidrs"}),
        ("configmaps", 403, {"configmaps"}),
    ],
)
def test_an_agent_does_without_what_the_server_does_not_show(
    tmp_path: Path, kind: str, status: int, reported: set[str]
) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: policies(inventory) and {*troubles(inventory)} == reported)

    def before(server: LocalServer) -> None:
        policy(server)
        server.cluster.strike(match=kind, status=status)

    run_scenario(tmp_path, scenario, before)


def test_an_agent_waits_for_what_the_server_cannot_show_yet(tmp_path: Path) -> None:
    """Its first inventory has all: with half of it packets would take a wrong way."""

    async def scenario(reader: Reader, server: LocalServer) -> None:
        while asked(server, "servicecidrs") < 3:
            await asyncio.sleep(0.01)
        assert not reader.seen
        server.cluster.strike()
        await reader.until(policies)

    def before(server: LocalServer) -> None:
        policy(server)
        server.cluster.strike(match="servicecidrs", status=503)

    run_scenario(tmp_path, scenario, before)


def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.stop()
        inventory = await reader.until(troubles)
        assert policies(inventory) == ["backend"]
        policy(server, "meanwhile")
        server.start()
        await reader.until(lambda inventory: "meanwhile" in policies(inventory))

    run_scenario(tmp_path, scenario, policy)


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


def test_a_pod_that_the_watch_has_not_delivered_is_asked_for_once(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
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

    run_scenario(tmp_path, scenario)


def test_a_pod_whose_name_another_one_had_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_store, "POD_QUERY_TIMEOUT_S", 0.3)

    async def scenario(reader: Reader, server: LocalServer) -> None:
        before = await reader.until(lambda inventory: labels(inventory, "a"))
        old = before.uids["prod", "a"]
        server.cluster.strike(hang=True)
        inventory = await reader.store.for_pod("prod", "a", "new")
        assert inventory is not None
        assert identify(inventory, "prod", "a", None, "new").labels is None
        assert identify(inventory, "prod", "a", None, old).labels == {"app": "backend"}

    def begin(server: LocalServer) -> None:
        pod(server, "a", app="backend")

    run_scenario(tmp_path, scenario, begin)


def test_a_pod_sees_a_policy_that_was_there_before_it(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
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

    run_scenario(tmp_path, scenario)


def test_a_pod_waits_for_a_policy_that_the_watch_does_not_deliver(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: True)
        server.cluster.strike(match="watch", deaf=True)
        policy(server)
        with pytest.raises(NotKnown, match="EgressGatewayPolicy backend yet"):
            await reader.store.for_pod("prod", "a", pod(server, "a"))

    run_scenario(tmp_path, scenario)


def test_a_pod_of_an_unknown_namespace_waits(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: True)
        with pytest.raises(NotKnown, match="Namespace other yet"):
            await reader.store.for_pod("other", "a", "")

    run_scenario(tmp_path, scenario)


@pytest.mark.parametrize("fault", [{"hang": True}, {"status": 500}])
def test_a_server_that_does_not_answer_delays_a_pod_and_no_more(
    tmp_path: Path, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_store, "POD_QUERY_TIMEOUT_S", 0.3)

    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: labels(inventory, "known"))
        server.cluster.strike(**fault)
        assert labels(await reader.store.for_pod("prod", "known", ""), "known") == {"app": "backend"}
        assert labels(await reader.store.for_pod("prod", "unknown", ""), "unknown") is None

    def before(server: LocalServer) -> None:
        pod(server, "known", app="backend")

    run_scenario(tmp_path, scenario, before)
