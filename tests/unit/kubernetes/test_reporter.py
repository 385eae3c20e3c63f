"""What the cluster is told, by a server that speaks the API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gateway_agent.kubernetes import empty_policies
from gateway_agent.kubernetes.client import Api
from gateway_agent.kubernetes.reporter import ClusterReport
from gateway_agent.lease.voting import recorded_voter_set
from gateway_agent.show.snapshot import NodeSnapshot
from tests.lab import documents
from tests.lab.apiserver.local import LocalServer
from tests.lab.topology import VIRTUAL

from . import test_conditions as conditions
from .cluster_scenario import GATEWAYS, NAMESPACE, Reader, asked, policies, policy, run_scenario
from .test_k8s_events import changed

CONFIGMAP = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{recorded_voter_set.NAME}"


class Reporting:
    """Reports by these views in turn, then by the last of them, until the loop ends."""

    def __init__(self, reader: Reader, server: LocalServer, *views: NodeSnapshot) -> None:
        self._views = views
        self._looks = 0
        self._task = asyncio.create_task(
            ClusterReport(Api(server.kubeconfig), reader.store, self._view).run()
        )

    def sees(self, view: NodeSnapshot) -> None:
        """From now on only this."""
        self._views = (view,)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            assert not self._task.done()
            await asyncio.sleep(0.01)

    async def looked(self, times: int) -> None:
        """So many times more."""
        enough = self._looks + times
        await self.until(lambda: self._looks >= enough)

    def _view(self) -> NodeSnapshot:
        self._looks += 1
        return self._views[min(self._looks, len(self._views)) - 1]


def test_statuses_and_events_are_written_once(tmp_path: Path) -> None:
    """The view of a master; its gateway stands in the cluster, and a policy that names another one."""
    change = changed("g1", at=time.time() + 60)

    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        master = Reporting(reader, server, conditions.seen(), conditions.seen(changes=(change,)))
        await master.until(server.cluster.events)
        gateway = server.cluster.call("GET", f"{GATEWAYS}/partner")
        assert gateway["status"]["activeNodeName"] == "g1"
        assert gateway["spec"] == documents.virtual_gateway("partner", [VIRTUAL])["spec"]
        await master.looked(10)
        assert (asked(server, "/status"), asked(server, "PATCH")) == (2, 3)
        [event] = server.cluster.events()
        assert (event["reason"], event["involvedObject"]["uid"]) == (
            "MasterChanged",
            gateway["metadata"]["uid"],
        )

    run_scenario(tmp_path, scenario, reported)


def test_a_status_is_written_once_also_while_the_watch_is_late(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.cluster.strike(match="watch", deaf=True)
        master = Reporting(reader, server, conditions.seen())
        # Times of conditions have whole seconds.
        wanted = int(time.time()) + 2
        await master.until(lambda: time.time() >= wanted)
        await master.looked(10)
        assert (asked(server, "/status"), asked(server, "PATCH")) == (2, 3)

    run_scenario(tmp_path, scenario, reported)


@pytest.mark.parametrize("poorer_first", [True, False])
def test_two_agents_that_know_different_objects_come_to_an_end(tmp_path: Path, poorer_first: bool) -> None:
    """Each takes itself for the one that writes; what stands is the status of the one that knows a master."""
    views = [conditions.without_master(conditions.seen()), conditions.seen()]

    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        for view in views if poorer_first else views[::-1]:
            agent = Reporting(reader, server, view)
            await agent.looked(20)
        await agent.looked(100)
        assert server.cluster.call("GET", f"{GATEWAYS}/partner")["status"]["activeNodeName"] == "g1"
        # The gateway by each of them, and once more by one of them where the other came last; the policy once.
        assert asked(server, "/status") <= 4
        assert len(server.cluster.events()) <= 2

    run_scenario(tmp_path, scenario, reported)


def test_an_agent_whose_watch_is_stuck_does_not_overwrite_a_newer_status(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.cluster.strike(match="watch", deaf=True)
        newer = {"observedGeneration": 1, "activeNodeName": "g2"}
        server.cluster.call("PATCH", f"{GATEWAYS}/partner/status", {"status": newer})
        await Reporting(reader, server, conditions.seen()).looked(50)
        assert server.cluster.call("GET", f"{GATEWAYS}/partner")["status"] == newer
        assert asked(server, f"{GATEWAYS}/partner/status") == 1

    run_scenario(tmp_path, scenario, reported)


def test_a_node_that_was_away_writes_no_event_of_an_older_epoch(tmp_path: Path) -> None:
    """The Event of its loss waits for the API; when that is back, another node has been master for long."""
    lost = changed("", "g1", at=time.time() + 60)
    away = conditions.seen(changes=(lost,))
    assert away.lease_daemon is not None
    newer = tuple(msgspec.structs.replace(state, epoch=lost.epoch + 1) for state in away.lease_daemon.egress)
    back = replace(away, lease_daemon=msgspec.structs.replace(away.lease_daemon, egress=newer))

    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.cluster.strike(match="events", status=503)
        agent = Reporting(reader, server, conditions.seen(), away)
        await agent.until(lambda: asked(server, "POST"))
        server.cluster.strike()
        agent.sees(back)
        await agent.looked(3)
        assert server.cluster.events("MasterChanged") == []

    run_scenario(tmp_path, scenario, reported)


@pytest.mark.parametrize(("shared", "written"), [("", True), ("1", False)])
def test_the_voters_are_written_by_compare_and_swap(tmp_path: Path, shared: str, written: bool) -> None:
    """The other writer comes between: the watch has not told of what it has written."""

    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.cluster.strike(match="configmaps?", deaf=True)
        if shared:
            server.cluster.call("PATCH", CONFIGMAP, {"data": {"version": shared, "members": "x y z"}})
        await Reporting(reader, server, conditions.seen()).looked(10)
        keeper = conditions.seen().lease_daemon
        assert keeper is not None
        agreed = {"version": str(keeper.voter_set), "members": " ".join(keeper.voters)}
        other = {"version": shared, "members": "x y z"}
        assert server.cluster.call("GET", CONFIGMAP)["data"] == (agreed if written else other)
        assert asked(server, f"PATCH {CONFIGMAP}") == 1

    run_scenario(tmp_path, scenario, reported)


def test_voters_that_cannot_be_written_keep_nothing_else_back(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.cluster.strike(match=f"configmaps/{recorded_voter_set.NAME}", status=403)
        change = changed("g1", at=time.time() + 60)
        master = Reporting(reader, server, conditions.seen(), conditions.seen(changes=(change,)))
        await master.until(server.cluster.events)
        await master.looked(10)
        assert (asked(server, "/status"), asked(server, f"PATCH {CONFIGMAP}")) == (2, 1)

    run_scenario(tmp_path, scenario, reported)


def test_a_policy_that_selects_nothing_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(empty_policies, "SETTLE_S", 0.05)

    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        master = Reporting(reader, server, replace(conditions.seen(), inventory=reader.seen[-1]))
        await master.until(lambda: server.cluster.events("SelectsNothing"))
        await master.looked(20)
        names = [event["involvedObject"]["name"] for event in server.cluster.events("SelectsNothing")]
        assert names == ["both"]
        assert asked(server, "GET /api/v1/pods") - asked(server, "pods (watch)") == 1 + 2

    def before(server: LocalServer) -> None:
        reported(server)
        server.cluster.apply(documents.policy("chosen", "partner", {"app": "another"}))
        server.cluster.run("prod", "a", "w9", {"app": "another"})

    run_scenario(tmp_path, scenario, before)


def reported(server: LocalServer) -> None:
    """Create the objects that the master's view contains."""
    server.cluster.apply(documents.virtual_gateway("partner", [VIRTUAL]))
    policy(server, "both")
