"""``egressctl test --all``: one node asks the others to test, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from cni.plan import Plan, PlanNode
from gateway_agent.agent.inputs.peers import Peers
from gateway_agent.agent.requests.group_tests import GroupTests
from gateway_agent.agent.requests.pod_tests import PodTests
from gateway_agent.agent.state import NodeState
from gateway_agent.manifest_sets.messages import Answer, Have, Tried, Try
from gateway_agent.manifest_sets.session import Refused
from gateway_agent.policy.egress_node.pod_probes import Answer as Came
from gateway_agent.policy.egress_node.pod_probes import PodAnswer, PodProbe
from gateway_agent.show import pod_tests
from gateway_agent.show.status import NotKnown

from ...show.test_status import view
from .test_group import Wire
from .test_whois import Threads

NAMES = ("g1", "g2", "w1")
NODES = tuple(PlanNode(name, f"10.0.0.{number}") for number, name in enumerate(NAMES, 1))


class Prober:
    def send(self, probes: Sequence[PodProbe]) -> dict[PodProbe, PodAnswer]:
        found = PodAnswer(Came.EXPIRED, "203.0.113.254", 0.4, ("169.254.233.16", 20001), ("10.0.0.21", 20001))
        return dict.fromkeys(probes, found)


class HeldThreads(Threads):
    def __init__(self) -> None:
        self.reached, self.released = asyncio.Event(), asyncio.Event()

    async def run(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        self.reached.set()
        await self.released.wait()
        return await super().run(function, *args, **kwargs)


def nodes(instead: Mapping[str, Answer | Exception | None]) -> dict[str, GroupTests]:
    peers: dict[str, Peers] = {}
    found = {}
    for name in NAMES:
        state = NodeState(plan=Plan(name, 0xFF00000, 4799, 1450, NODES))
        peers[name] = Peers(name, state, Wire(name, peers, instead))
        tests = PodTests(lambda name=name: view(name), Prober(), Threads())  # type: ignore[misc]
        found[name] = GroupTests(tests, peers[name])
    return found


def of_all(instead: Mapping[str, Answer | Exception | None], **question: Any) -> dict[str, Any]:
    return asyncio.run(nodes(instead)["w1"].test({"all": True, **question}))


def test_the_table_has_the_lines_of_all_nodes() -> None:
    found = of_all({}, gateway="partner")
    assert [row["node"] for row in found["tests"]] == ["w1", "g1", "g2"]
    assert len({frozenset(row) for row in found["tests"]}) == 1
    alone = asyncio.run(nodes({})["g2"].test({"gateway": "partner"}))
    assert found["tests"][2] == alone["tests"][0]


def test_the_question_goes_to_all_nodes() -> None:
    found = of_all({}, gateway="partner", to="203.0.113.99", port="81")
    assert {(row["destination"], row["port"]) for row in found["tests"]} == {("203.0.113.99", 81)}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Refused("it has another key"), "it has another key"),
        (Have(1, b""), "its answer is of another kind"),
        (Tried(b"", "no gateway 'x'"), "no gateway 'x'"),
        (Tried(b"\xc1"), "MessagePack"),
        (Tried(b"\x91\x80"), "node"),
    ],
)
def test_a_node_that_does_not_test_is_wrong_with_the_reason(answer: Any, reason: str) -> None:
    found = of_all({"g2": answer})
    [row] = [row for row in found["tests"] if row["node"] == "g2"]
    assert (row["result"], found["passed"]) == ("wrong", False)
    assert reason in row["reason"]
    assert set(row) == set(found["tests"][0])


def test_a_node_names_no_other_one() -> None:
    lie = Tried(pod_tests.packed([pod_tests.silent("w1", "it is w1")]))
    assert [row["node"] for row in of_all({"g2": lie})["tests"]].count("g2") == 1


def test_a_node_that_tests_refuses_another_test() -> None:
    state = NodeState(plan=Plan("g1", 0xFF00000, 4799, 1450, NODES))
    peers: dict[str, Peers] = {}
    peers["g1"] = Peers("g1", state, Wire("g1", peers, {}))

    async def both() -> list[Answer]:
        threads = HeldThreads()
        GroupTests(PodTests(lambda: view("g1"), Prober(), threads), peers["g1"])
        first = asyncio.create_task(peers["g1"].answer("w1", Try("", "", "")))
        await threads.reached.wait()
        second = await peers["g1"].answer("g2", Try("", "", ""))
        threads.released.set()
        return [await first, second]

    first, second = asyncio.run(both())
    assert isinstance(first, Tried)
    assert not first.trouble
    assert second == Tried(b"", "another test runs")


def test_without_connections_there_is_no_test_of_all() -> None:
    alone = GroupTests(PodTests(lambda: view("w1"), Prober(), Threads()), None)
    with pytest.raises(NotKnown):
        asyncio.run(alone.test({"all": True}))


def test_a_wrong_destination_is_asked_of_no_node() -> None:
    with pytest.raises(NotKnown):
        of_all({}, to="nowhere")
