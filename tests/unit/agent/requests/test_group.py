"""``egressctl status --all``: one node asks the others, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from cni.plan import Plan, PlanNode
from gateway_agent.agent.inputs.peers import CallLimits, Peers
from gateway_agent.agent.requests import group as group_requests
from gateway_agent.agent.requests.group import Group
from gateway_agent.agent.state import NodeState
from gateway_agent.manifest_sets.messages import Answer, Have, Look, Request
from gateway_agent.manifest_sets.session import Refused
from gateway_agent.show.snapshot import NodeSnapshot
from gateway_agent.show.status import NotKnown

from ...show.test_verdict import well

NODES = tuple(PlanNode(name, f"10.0.0.{number}") for number, name in enumerate(("g1", "g2", "w1", "w2"), 1))


class Wire:
    """Leads requests to the nodes. An answer in ``instead`` comes in place of a node's own."""

    problems = ()

    def __init__(
        self, me: str, nodes: Mapping[str, Peers], instead: Mapping[str, Answer | Exception | None]
    ) -> None:
        self.me, self.nodes, self.instead = me, nodes, instead

    async def call(self, node: str, address: str, source: str, request: Request) -> Answer:
        if node not in self.instead:
            return await self.nodes[node].answer(self.me, request)
        found = self.instead[node]
        if found is None:
            await asyncio.Event().wait()
        if isinstance(found, Exception):
            raise found
        assert found is not None
        return found

    async def serve(self, peers: Any, handler: Any) -> None:
        raise NotImplementedError


class Nodes:
    def __init__(self, instead: Mapping[str, Answer | Exception | None] = {}) -> None:
        self.peers: dict[str, Peers] = {}
        self.groups: dict[str, Group] = {}
        self.looks: list[str] = []
        for node in NODES:
            state = NodeState(plan=Plan(node.name, 0xFF00000, 4799, 1450, NODES))
            self.peers[node.name] = Peers(node.name, state, Wire(node.name, self.peers, instead))
            self.groups[node.name] = Group(state, self.looking(node.name), lambda: "", self.peers[node.name])

    def looking(self, name: str) -> Any:
        def look() -> NodeSnapshot:
            self.looks.append(name)
            return well()

        return look

    def status(self, node: str) -> dict[str, dict[str, Any]]:
        found = asyncio.run(self.groups[node].status({}))
        return {row["node"]: row for row in found["nodes"]}


@pytest.mark.parametrize("node", ["g1", "w2"])
def test_each_node_shows_all(node: str) -> None:
    rows = Nodes().status(node)
    assert sorted(rows) == ["g1", "g2", "w1", "w2"]
    assert all(row["ok"] for row in rows.values())
    assert rows["g2"]["address"] == "10.0.0.2"


@pytest.mark.parametrize(
    ("instead", "reason"),
    [
        (Refused("it has another key"), "it has another key"),
        (OSError(111, "Connect call failed ('10.0.0.2', 7947)"), "Connection refused"),
        (TimeoutError(), "it did not answer in time"),
        (Have(1, b""), "its answer is of another kind"),
    ],
)
def test_a_node_that_gives_no_answer_is_named_with_the_reason(instead: Any, reason: str) -> None:
    rows = Nodes({"g2": instead}).status("w1")
    assert (rows["g2"]["verdict"], rows["g2"]["reason"]) == ("no answer", reason)
    assert rows["w2"]["ok"]


def test_nodes_that_keep_silent_hold_up_nothing_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_requests, "CALL_LIMITS", CallLimits(at_once=1, each_s=60, all_s=0.05))
    rows = Nodes({"g1": None, "g2": None}).status("w1")
    assert {rows[name]["reason"] for name in ("g1", "g2")} == {"it did not answer in time"}
    assert rows["w1"]["ok"]


def test_many_questions_cost_one_look() -> None:
    nodes = Nodes()

    async def ask_often() -> None:
        for _ in range(50):
            await nodes.peers["g1"].answer("w1", Look())

    asyncio.run(ask_often())
    assert nodes.looks == ["g1"]


def test_a_node_without_connections_says_so() -> None:
    state = NodeState(plan=Plan("w1", 0xFF00000, 4799, 1450, NODES))
    found = asyncio.run(Group(state, well, lambda: "", None).status({}))
    assert not found["ok"]
    assert {row["reason"] for row in found["nodes"] if row["node"] != "w1"} == {
        "this node has no connections with other agents"
    }


def test_before_the_first_plan_there_is_no_answer() -> None:
    with pytest.raises(NotKnown):
        asyncio.run(Group(NodeState(), lambda: None, lambda: "starting", None).status({}))
