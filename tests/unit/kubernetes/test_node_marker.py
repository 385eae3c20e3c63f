"""Our taint and our condition of a node, and nothing else of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway_agent.kubernetes import node_marker
from gateway_agent.kubernetes.client import Api
from gateway_agent.kubernetes.node_marker import NodeMarker
from gateway_agent.kubernetes.node_marks import CONDITION, TAINT
from tests.lab.apiserver.local import LocalServer

from .cluster_scenario import Reader, asked, run_scenario
from .test_node_marks import OTHERS

PATH = "/api/v1/nodes/w1"


class Marking:
    """A marker of w1 that runs until the loop ends; ``unready`` is what the agent says."""

    def __init__(self, reader: Reader, server: LocalServer, **which: bool) -> None:
        self.unready = "the agent is starting"
        self.looks = 0
        self._server = server
        kept = {"taint": True, "condition": True, **which}
        self.marker = NodeMarker(Api(server.kubeconfig), reader.store, "w1", self._look, **kept)
        self.task = asyncio.create_task(self.marker.run())

    def _look(self) -> str:
        self.looks += 1
        return self.unready

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            assert not self.task.done()
            await asyncio.sleep(0.01)

    async def looked(self, times: int) -> None:
        enough = self.looks + times
        await self.until(lambda: self.looks >= enough)


def stored(server: LocalServer) -> tuple[list[str], dict[str, str]]:
    """Return keys of the taints, and statuses of the conditions."""
    found = server.cluster.call("GET", PATH)
    taints = [f"{taint['key']}:{taint['effect']}" for taint in found["spec"].get("taints") or ()]
    return taints, {each["type"]: each["status"] for each in found["status"]["conditions"]}


def registered(server: LocalServer) -> None:
    """Register the node as its kubelet does."""
    status = {"addresses": [], "conditions": [{"type": "Ready", "status": "True"}]}
    found = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "w1"}, "status": status}
    server.cluster.apply({**found, "spec": {"taints": OTHERS[:1]}})


UNSCHEDULABLE, TAINTED = "node.kubernetes.io/unschedulable:NoSchedule", f"{TAINT}:NoSchedule"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_marker, "POLL_INTERVAL_S", 0.02)
    monkeypatch.setattr(node_marker, "FIRST_BACKOFF_S", 0.05)
    monkeypatch.setattr(node_marker, "SETTLE_S", 0.1)


def test_marks_follow_the_agent_and_nothing_else_changes(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        marking = Marking(reader, server)
        bad = [UNSCHEDULABLE, TAINTED], {"Ready": "True", CONDITION: "False"}
        well = [UNSCHEDULABLE], {"Ready": "True", CONDITION: "True"}
        await marking.until(lambda: stored(server) == bad)
        marking.unready = ""
        await marking.until(lambda: stored(server) == well)
        await marking.looked(20)
        assert asked(server, "PATCH") == 4
        await marking.marker.leave()
        # Its task goes on until all else of the agent has stopped, and the agent itself may still be well.
        await marking.looked(20)
        assert stored(server) == bad

    run_scenario(tmp_path, scenario, registered)


def test_what_lasts_shorter_than_a_restart_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_marker, "SETTLE_S", 60.0)

    async def scenario(reader: Reader, server: LocalServer) -> None:
        marking = Marking(reader, server)
        await marking.looked(20)
        assert asked(server, "PATCH") == 0
        marking.unready = ""
        await marking.until(lambda: stored(server)[1].get(CONDITION) == "True")

    run_scenario(tmp_path, scenario, registered)


def test_after_a_boot_no_restart_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_marker, "SETTLE_S", 60.0)

    async def scenario(reader: Reader, server: LocalServer) -> None:
        marking = Marking(reader, server, first=True)
        await marking.until(lambda: TAINTED in stored(server)[0])
        marking.unready = ""
        await marking.until(lambda: TAINTED not in stored(server)[0])
        marking.unready = "an update"
        await marking.looked(20)
        assert stored(server)[1][CONDITION] == "True"

    run_scenario(tmp_path, scenario, registered)


def test_a_node_that_another_program_changes_meanwhile(tmp_path: Path) -> None:
    """The watch is late: the first patch is for an old version, and is refused."""

    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: inventory.nodes)
        server.cluster.strike(match="watch", deaf=True)
        server.cluster.call("PATCH", PATH, {"spec": {"taints": OTHERS}})
        marking = Marking(reader, server, condition=False)
        await marking.until(lambda: asked(server, "PATCH"))
        await marking.looked(20)
        assert asked(server, "PATCH") == 1
        server.cluster.strike()
        await marking.until(lambda: TAINTED in stored(server)[0])
        assert stored(server)[0] == [UNSCHEDULABLE, f"{TAINT}:NoExecute", TAINTED]

    run_scenario(tmp_path, scenario, registered)


def test_a_late_watch_does_not_repeat_a_write(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: inventory.nodes)
        server.cluster.strike(match="watch", deaf=True)
        marking = Marking(reader, server)
        await marking.until(lambda: TAINTED in stored(server)[0])
        marking.unready = ""
        await marking.until(lambda: TAINTED not in stored(server)[0])
        await marking.looked(20)
        assert asked(server, "PATCH") == 4

    run_scenario(tmp_path, scenario, registered)


@pytest.mark.parametrize("which", ["taint", "condition"])
def test_only_what_is_asked_for_is_written(tmp_path: Path, which: str) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        marking = Marking(reader, server, **{"taint": False, "condition": False, which: True})
        await marking.until(lambda: asked(server, "PATCH"))
        await marking.looked(10)
        taints, conditions = stored(server)
        assert (TAINTED in taints, CONDITION in conditions) == (which == "taint", which == "condition")

    run_scenario(tmp_path, scenario, registered)


def test_a_server_that_refuses_is_asked_again(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: inventory.nodes)
        server.cluster.strike(match=PATH, status=500)
        marking = Marking(reader, server)
        await marking.until(lambda: asked(server, "PATCH") >= 2)
        await marking.marker.leave()
        server.cluster.strike()
        await marking.until(lambda: TAINTED in stored(server)[0])

    run_scenario(tmp_path, scenario, registered)
