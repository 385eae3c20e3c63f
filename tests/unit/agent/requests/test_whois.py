"""Questions about connections, to this node and to others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cni.plan import Plan, PlanEgressIP, PlanNode
from gateway_agent.agent.requests.whois import PeerSearch, Whois
from gateway_agent.agent.state import NodeState
from gateway_agent.config import ConnectionLogConfig
from gateway_agent.connection_log.halves import UNKNOWN_END, UNKNOWN_POD, Half
from gateway_agent.connection_log.recorder import END, START
from gateway_agent.connection_log.sightings import OPEN, Query, Sighting
from gateway_agent.manifest_sets.messages import Answer, Ask, Find, Found, Have, Request
from gateway_agent.manifest_sets.session import Refused
from gateway_agent.show.status import NotKnown

SHOWN, INSIDE, TO = ("172.16.0.50", 40000), ("10.0.0.21", 50001), ("203.0.113.10", 443)
OUTER = Half("partner", SHOWN, "tcp", TO, "w1", INSIDE, UNKNOWN_POD, UNKNOWN_END)
INNER = OUTER._replace(shown=("172.16.0.50", 0), pod=("prod", "api"), pod_end=("10.244.1.5", 33000))
EGRESS = PlanEgressIP("a" * 16, "partner", "172.16.0.50", 1, 1, ("g1", "g2"), "g1")
NODES = (PlanNode("g1", "10.0.0.7"), PlanNode("g2", "10.0.0.8"), PlanNode("w1", "10.0.0.21"))
QUESTION = {"ip": SHOWN[0], "port": str(SHOWN[1])}


class Threads:
    async def run(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)


class NoPods:
    def __init__(self) -> None:
        self.records: dict[Any, Any] = {}


@dataclass
class Search:
    """What one node has seen."""

    now: Sequence[Sighting] = ()
    before: Sequence[Sighting] = ()
    journal: Sequence[Sighting] = ()
    asked: list[Query] = field(default_factory=list)

    def open(self, plan: Plan, attachments: Iterable[object], query: Query) -> list[Sighting]:
        self.asked.append(query)
        return list(self.now)

    def logged(self, path: Path, keep: int, query: Query) -> list[Sighting]:
        return list(self.before)

    def in_journal(self, query: Query) -> list[Sighting]:
        return list(self.journal)


class Network:
    """Leads questions to the nodes; one that is not there does not answer."""

    def __init__(self) -> None:
        self.nodes: dict[str, Channel] = {}


class Channel:
    """The connections of one node with the others."""

    def __init__(self, network: Network, node: str) -> None:
        self.network = network
        self.handlers: dict[Any, Any] = {}
        network.nodes[node] = self

    async def call(self, node: str, request: Request) -> Answer:
        if node not in self.network.nodes:
            raise Refused(f"{node} is away")
        answer: Answer = await self.network.nodes[node].handlers[type(request)]("", request)
        return answer

    def handle(self, kind: Any, handler: Any) -> None:
        self.handlers[kind] = handler


def cluster(*absent: str, logging: bool = True, **seen: Search) -> dict[str, Whois]:
    network = Network()
    made = {}
    for node in NODES:
        plan = Plan(node.name, 0x0FF00000, 4799, 1450, NODES, (EGRESS,), (), ())
        peers = PeerSearch(Channel(network, node.name))  # type: ignore[arg-type]
        log = ConnectionLogConfig() if logging else None
        state, pods = NodeState(plan=plan), NoPods()
        search, threads = seen.get(node.name, Search()), Threads()
        made[node.name] = Whois(state, pods, search, threads, log, peers)  # type: ignore[arg-type]
    for name in absent:
        del network.nodes[name]
    return made


def at(event: str, seconds: float, half: Half, by: str, out: int = -1, back: int = -1) -> Sighting:
    return Sighting(event, seconds, half, out, back, by)


def ask(whois: Whois, **more: str) -> dict[str, Any]:
    return asyncio.run(whois.answer({**QUESTION, **more}))


MASTER = Search(before=[at(START, 10, OUTER, "g1"), at(END, 20, OUTER, "g1", 5, 7)])
WORKER = Search(before=[at(START, 10.1, INNER, "w1"), at(END, 20.1, INNER, "w1", 5, 7)])


@pytest.mark.parametrize("node", ["g1", "g2", "w1"])
def test_each_node_gives_the_joined_answer(node: str) -> None:
    answer = ask(cluster(g1=MASTER, w1=WORKER)[node])
    [one] = answer["connections"]
    assert (one["namespace"], one["pod"], one["podPort"], one["node"]) == ("prod", "api", 33000, "w1")
    assert (one["by"], one["open"], one["bytesOut"], one["bytesIn"]) == ("g1", False, 5, 7)
    assert (one["start"], one["end"]) == ("1970-01-01T00:00:10.000Z", "1970-01-01T00:00:20.000Z")
    assert answer["silent"] == []


def test_a_node_that_does_not_answer_is_named() -> None:
    answer = ask(cluster("w1", g1=MASTER)["g2"])
    [one] = answer["connections"]
    assert (one["pod"], one["node"], one["nodePort"]) == ("", "w1", INSIDE[1])
    assert answer["silent"] == [{"node": "w1", "reason": "[Errno 0] w1 is away"}]


def test_an_open_connection_comes_before_closed_ones() -> None:
    now = Search(now=[at(OPEN, 50, OUTER, "g1")], before=[*MASTER.before, at(START, 40, OUTER, "g1")])
    [one] = ask(cluster(g1=now)["g1"])["connections"]
    assert (one["open"], one["start"], one["end"]) == (True, "1970-01-01T00:00:40.000Z", None)


def test_a_time_selects() -> None:
    nodes = cluster(g1=MASTER, w1=WORKER)
    assert len(ask(nodes["w1"], at="15")["connections"]) == 1
    assert ask(nodes["w1"], at="40")["connections"] == []


def test_a_destination_selects() -> None:
    nodes = cluster(g1=MASTER, w1=WORKER)
    assert len(ask(nodes["w1"], to=TO[0], toPort="443")["connections"]) == 1
    assert ask(nodes["w1"], to="203.0.113.11")["connections"] == []


def test_without_a_log_nothing_is_searched_for() -> None:
    answer = ask(cluster(logging=False, g1=MASTER)["g1"])
    assert (answer["connections"], answer["log"]) == ([], False)


@pytest.mark.parametrize(
    "changed",
    [
        {"ip": ""}, {"ip": "x"}, {"port": ""}, {"port": "65536"}, {"port": "0"}, {"to": "x"}, {"toPort": "-1"},
        {"at": "soon"}, {"at": "9e99"}, {"at": "nan"},
    ],
)  # fmt: skip
def test_what_is_no_question(changed: dict[str, str]) -> None:
    with pytest.raises(NotKnown):
        asyncio.run(cluster()["g1"].answer({**QUESTION, **changed}))


NO_PORT = msgspec.msgpack.encode(Query(("1.2.3.4", 1 << 20)))


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"end": 1}), NO_PORT])
def test_another_node_may_send_anything(raw: bytes) -> None:
    network = Network()
    channel = Channel(network, "g1")
    plan = Plan("g1", 0x0FF00000, 4799, 1450, NODES, (EGRESS,), (), ())
    parts: Any = (NoPods(), Search(), Threads(), None, PeerSearch(channel))  # type: ignore[arg-type]
    Whois(NodeState(plan=plan), *parts)
    found = asyncio.run(channel.handlers[Find]("w1", Find(raw)))
    assert isinstance(found, Found)
    assert found.trouble


@pytest.mark.parametrize("said", [Have(0, b""), Found(b"\xc1"), Found(b"", "it is broken")])
def test_another_node_may_answer_anything(said: Answer) -> None:
    network = Network()
    channel = Channel(network, "g1")

    async def answer(_: str, __: Ask | Find) -> Answer:
        return said

    channel.handle(Find, answer)
    with pytest.raises(OSError, match=r"broken|kind|MessagePack"):
        asyncio.run(PeerSearch(Channel(network, "w1")).ask("g1", Query(SHOWN)))  # type: ignore[arg-type]
