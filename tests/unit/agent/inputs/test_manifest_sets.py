"""Sets of manifests in a group of nodes, in memory: pushed, fetched, missed, edited by hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from cni.plan import Plan, PlanNode
from gateway_agent.agent.inputs import manifest_sets
from gateway_agent.agent.inputs.manifest_sets import ManifestSets
from gateway_agent.agent.inputs.peers import Peers
from gateway_agent.agent.inputs.push import NotPushed, Pushes
from gateway_agent.agent.state import NodeState
from gateway_agent.manifest_sets import sets
from gateway_agent.manifest_sets.acceptance import Local
from gateway_agent.manifest_sets.messages import Answer, Ask, Fetch, Offer, Request, Result
from gateway_agent.manifest_sets.sets import ManifestSet
from gateway_agent.manifests.model import Problem

Files = dict[str, str]
OLD: Files = {"a.yaml": "old"}
ADDRESSES = {f"w{number}": f"10.0.0.{number}" for number in range(1, 6)}


@dataclass
class Disk:
    """The manifests of one node. ``full``: nothing can be written."""

    files: Mapping[str, str]
    last: ManifestSet | None = None
    full: bool = False

    async def read(self) -> Local:
        return Local(self.last, dict(self.files))

    async def apply(self, manifests: ManifestSet) -> None:
        await self.adopt(manifests)
        self.files = dict(manifests.files)

    async def adopt(self, manifests: ManifestSet) -> None:
        if self.full:
            raise OSError("No space left on device")
        self.last = manifests

    async def repair(self) -> str:
        return ""


@dataclass
class Wire:
    """One node's connections in a group."""

    group: Group
    me: str
    problems: tuple[Problem, ...] = ()

    async def call(self, node: str, address: str, source: str, request: Request) -> Answer:
        assert (address, source) == (ADDRESSES[node], ADDRESSES[self.me])
        # Another task may come between.
        await asyncio.sleep(0)
        if {node, self.me} & self.group.away:
            raise TimeoutError
        assert isinstance(request, Ask | Fetch | Offer)
        return await self.group.nodes[node].answer(self.me, request)

    async def serve(self, peers: Any, handler: Any) -> None:
        raise NotImplementedError


@dataclass
class Group:
    """Some nodes with the same manifests."""

    names: tuple[str, ...] = tuple(ADDRESSES)
    away: set[str] = field(default_factory=set)
    disks: dict[str, Disk] = field(default_factory=dict)
    nodes: dict[str, ManifestSets] = field(default_factory=dict)
    pushes: dict[str, Pushes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.names:
            self.start(name, Disk(dict(OLD)))

    def start(self, name: str, disk: Disk) -> None:
        """Start a node, or start it again, with its disk."""
        inventory = tuple(PlanNode(each, ADDRESSES[each]) for each in self.names)
        state = NodeState(plan=Plan(name, 0xFF00000, 4799, 1450, inventory))
        self.disks[name] = disk
        self.nodes[name] = ManifestSets(Peers(name, state, Wire(self, name)), disk)
        self.pushes[name] = Pushes(self.nodes[name])

    async def push(
        self, node: str, files: Mapping[str, str], to: tuple[str, ...] = (), force: bool = False
    ) -> dict[str, Any]:
        """Push on a node, and return what the agent says in the end."""
        state = self.pushes[node].begin({"files": dict(files), "to": list(to), "force": force})
        while not state["done"]:
            await asyncio.sleep(0)
            state = self.pushes[node].state(state)
        return state

    async def spread(self) -> None:
        """Let each node that is there ask each other one."""
        for name in self.names:
            for other in self.names:
                if other != name and not {name, other} & self.away:
                    await self.nodes[name].take_newer(other)

    @property
    def contents(self) -> list[Mapping[str, str]]:
        """Return the different contents of the nodes' directories."""
        found: list[Mapping[str, str]] = []
        for disk in self.disks.values():
            if disk.files not in found:
                found.append(disk.files)
        return found


def outcomes(state: dict[str, Any]) -> dict[str, str]:
    return {row["node"]: row["outcome"] for row in state["nodes"]}


def run(scenario: Callable[[Group], Awaitable[None]]) -> None:
    async def go() -> None:
        await scenario(Group())

    asyncio.run(go())


def test_a_push_is_on_all_nodes_and_a_second_one_of_the_same_changes_nothing() -> None:
    async def scenario(group: Group) -> None:
        state = await group.push("w1", {"a.yaml": "new"})
        assert outcomes(state) == dict.fromkeys(group.names, "applied")
        assert group.contents == [{"a.yaml": "new"}]
        assert set(outcomes(await group.push("w3", {"a.yaml": "new"})).values()) == {"unchanged"}

    run(scenario)


def test_a_node_that_was_away_takes_the_newest_set() -> None:
    async def scenario(group: Group) -> None:
        group.away = {"w2"}
        for text in ("one", "two"):
            assert outcomes(await group.push("w1", {"a.yaml": text}))["w2"] == "unreachable"
        group.away = set()
        await group.nodes["w2"].take_newer("w5")
        assert group.contents == [{"a.yaml": "two"}]

    run(scenario)


def test_a_node_that_lost_its_memory_takes_the_newest_set_in_place_of_an_old_one() -> None:
    async def scenario(group: Group) -> None:
        await group.push("w1", {"a.yaml": "one"})
        await group.push("w1", {"a.yaml": "two"})
        group.start("w2", Disk({"a.yaml": "one"}))
        group.start("w3", Disk({}))
        await group.spread()
        assert group.contents == [{"a.yaml": "two"}]

    run(scenario)


def test_an_operator_does_not_overwrite_a_set_that_came_meanwhile_without_seeing_it() -> None:
    async def scenario(group: Group) -> None:
        group.away = {"w2"}
        await group.push("w1", {"a.yaml": "of w1"})
        group.away = set()
        state = await group.push("w2", {"a.yaml": "of w2"})
        assert "newer set" in state["failure"]
        assert group.contents == [{"a.yaml": "of w1"}]
        await group.push("w2", {"a.yaml": "of w2"})
        assert group.contents == [{"a.yaml": "of w2"}]

    run(scenario)


def test_a_directory_that_was_edited_by_hand_stays_and_is_a_problem() -> None:
    async def scenario(group: Group) -> None:
        await group.push("w1", {"a.yaml": "one"})
        group.disks["w2"].files = {"a.yaml": "by hand"}
        state = await group.push("w1", {"a.yaml": "two"})
        assert outcomes(state)["w2"] == "edited"
        assert "edited by hand: a.yaml" in str(group.nodes["w2"].problems[0])
        await group.spread()
        assert group.disks["w2"].files == {"a.yaml": "by hand"}
        assert "nothing was sent" in (await group.push("w2", {"a.yaml": "three"}))["failure"]
        assert outcomes(await group.push("w1", {"a.yaml": "two"}, ("w2",), force=True)) == {"w2": "applied"}
        assert group.contents == [{"a.yaml": "two"}]
        assert not group.nodes["w2"].problems

    run(scenario)


def test_a_disk_that_is_full_is_a_problem_and_takes_the_set_when_there_is_room() -> None:
    async def scenario(group: Group) -> None:
        group.disks["w2"].full = True
        state = await group.push("w1", {"a.yaml": "new"})
        [row] = [row for row in state["nodes"] if row["node"] == "w2"]
        assert (row["outcome"], row["detail"]) == ("failed", "No space left on device")
        assert group.nodes["w2"].problems
        group.disks["w2"].full = False
        await group.spread()
        assert group.contents == [{"a.yaml": "new"}]
        assert not group.nodes["w2"].problems

    run(scenario)


def test_a_set_for_some_nodes_stays_there_until_the_next_one_for_all() -> None:
    async def scenario(group: Group) -> None:
        await group.push("w1", {"a.yaml": "one"})
        assert outcomes(await group.push("w1", {"a.yaml": "trial"}, ("w2", "w3"))) == {
            "w2": "applied",
            "w3": "applied",
        }
        await group.spread()
        assert [name for name in group.names if group.disks[name].files == {"a.yaml": "trial"}] == [
            "w2",
            "w3",
        ]
        assert set(outcomes(await group.push("w1", {"a.yaml": "two"})).values()) == {"applied"}
        assert group.contents == [{"a.yaml": "two"}]

    run(scenario)


@pytest.mark.parametrize("seed", range(20))
def test_after_pushes_on_any_nodes_at_once_all_have_the_same_set(seed: int) -> None:
    rng = random.Random(seed)

    async def scenario(group: Group) -> None:
        for turn in range(4):
            group.away = set(rng.sample(group.names, rng.randrange(3)))
            pushing = rng.sample(group.names, 2)
            files = [{"a.yaml": f"{turn} of {name}"} for name in pushing]
            await asyncio.gather(*map(group.push, pushing, files))
            if rng.random() < 0.5:
                name = rng.choice(group.names)
                group.start(name, group.disks[name])
        group.away = set()
        await group.spread()
        await group.spread()
        assert len(group.contents) == 1
        assert len({disk.last and disk.last.version for disk in group.disks.values()}) == 1

    run(scenario)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"files": {"a.yaml": "x"}, "to": ["w9"]}, "no node w9"),
        ({"files": {"a.yaml": 1}}, "files"),
        ({}, "files"),
        ({"files": {"a.yaml": "x"}, "to": "w1"}, "to"),
    ],
)
def test_a_question_that_cannot_be_meant_is_refused(question: dict[str, Any], message: str) -> None:
    async def scenario(group: Group) -> None:
        with pytest.raises(NotPushed, match=message):
            group.pushes["w1"].begin(question)

    run(scenario)


def test_files_beyond_the_bounds_are_sent_to_no_node() -> None:
    async def scenario(group: Group) -> None:
        state = await group.push("w1", {"a.yaml": "x" * sets.MAX_SET_BYTES})
        assert "more than 2 MiB" in state["failure"]
        assert (state["nodes"], group.contents) == ([], [OLD])

    run(scenario)


def test_one_push_at_a_time_and_only_the_last_is_known() -> None:
    async def scenario(group: Group) -> None:
        pushes = group.pushes["w1"]
        first = pushes.begin({"files": {"a.yaml": "x"}})
        with pytest.raises(NotPushed, match="another push"):
            pushes.begin({"files": {"a.yaml": "y"}})
        while not pushes.state(first)["done"]:
            await asyncio.sleep(0)
        with pytest.raises(NotPushed, match="knows nothing"):
            pushes.state({"push": 7})

    run(scenario)


def test_without_sets_a_push_says_why() -> None:
    with pytest.raises(NotPushed) as refused:
        Pushes(None).begin({"files": {"a.yaml": "x"}})
    assert "Kubernetes" in refused.value.hint


def test_what_is_no_set_changes_nothing() -> None:
    async def scenario(group: Group) -> None:
        answer = await group.nodes["w1"].answer("w2", Offer(b"\x00garbage"))
        assert isinstance(answer, Result)
        assert answer.outcome == "failed"
        assert group.contents == [OLD]

    run(scenario)


def test_a_node_asks_others_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_sets, "FIRST_POLL_INTERVAL_S", 0.001)

    async def scenario(group: Group) -> None:
        group.away = {"w2"}
        await group.push("w1", {"a.yaml": "new"})
        group.away = set()
        task = asyncio.create_task(group.nodes["w2"].follow())
        async with asyncio.timeout(10):
            while group.disks["w2"].files == OLD:
                await asyncio.sleep(0)
        task.cancel()

    run(scenario)
