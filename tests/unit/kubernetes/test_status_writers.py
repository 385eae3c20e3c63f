"""Two nodes that know different objects, and the status that stands in the end."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from gateway_agent.kubernetes.conditions import Report, reports
from gateway_agent.kubernetes.status_writers import FIRST_REPEAT_S, MAX_EPOCHS_MISSED, SURE_S, Writers
from gateway_agent.show.snapshot import NodeSnapshot

from .test_conditions import NOW, of, seen, without_master

DAY = 86400


class Api:
    """One object, and what each write of its status makes of it."""

    def __init__(self, prune: str = "") -> None:
        self.item = of("partner") | {"status": {}}
        self.writes: list[tuple[float, str]] = []
        self._prune = prune
        self._stamp()

    def write(self, node: str, report: Report, now: float) -> dict[str, Any] | None:
        if report.version != self.item["metadata"]["resourceVersion"]:
            return None
        self.writes.append((now, node))
        self.item = {**self.item, "status": {k: v for k, v in report.status.items() if k != self._prune}}
        self._stamp()
        return self.item

    def _stamp(self) -> None:
        self.item["metadata"] = {**self.item["metadata"], "resourceVersion": str(len(self.writes) + 1)}


class Node:
    """``watched``: the object as this node has heard of it."""

    def __init__(self, name: str, view: NodeSnapshot, api: Api) -> None:
        self.view = view
        self.watched = api.item
        self.deaf = False
        self.tries = 0
        self._name = name
        self._api = api
        self._writers = Writers()

    def look(self, now: float) -> None:
        if not self.deaf:
            self.watched = self._api.item
        for report in reports(self.view, self._writers.as_written([self.watched]), now):
            if self._writers.may_write(report, now):
                self.tries += 1
                stored = self._api.write(self._name, report, now)
                if stored is None:
                    self._writers.refused(report)
                else:
                    self._writers.wrote(report, stored, now)


def status(epoch: int) -> NodeSnapshot:
    """Return the view of an author that knows this epoch."""
    view = seen()
    assert view.lease_daemon is not None
    states = tuple(msgspec.structs.replace(state, epoch=epoch) for state in view.lease_daemon.egress)
    return replace(view, lease_daemon=msgspec.structs.replace(view.lease_daemon, egress=states))


def run(nodes: list[Node], seconds: int, since: float = NOW) -> None:
    for second in range(seconds):
        for node in nodes:
            node.look(since + second)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(("right", "wrong"), [(seen(), without_master(seen())), (status(8), status(7))])
def test_one_status_stays_and_the_writes_settle(right: NodeSnapshot, wrong: NodeSnapshot, first: int) -> None:
    api = Api()
    nodes = [Node("right", right, api), Node("wrong", wrong, api)]
    ordered = nodes if first == 0 else nodes[::-1]
    for second in (*range(300), *range(300, DAY, 300)):
        run(ordered, 1, NOW + second)
    run([nodes[0]], 1, NOW + DAY)
    assert api.writes[-1][1] == "right"
    by_wrong = [at - NOW for at, node in api.writes if node == "wrong"]
    gaps = [later - earlier for earlier, later in pairwise(by_wrong)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= FIRST_REPEAT_S
    assert len(api.writes) <= 32
    assert sum(at > NOW + DAY / 2 for at, _ in api.writes) <= 2


def test_news_is_written_at_once_by_a_node_that_no_other_contradicts() -> None:
    api = Api()
    node = Node("g1", seen(), api)
    for change in range(50):
        node.view = status(change)
        run([node], 3, NOW + 3 * change)
    assert [at for at, _ in api.writes] == [NOW + 3 * change for change in range(50)]


def test_a_healthy_gateway_is_called_unready_by_a_node_that_has_been_sure_for_a_while_only() -> None:
    """A node that has just started, or comes back, has not heard of the master yet."""
    api = Api()
    run([Node("g1", seen(), api)], 1)
    fresh = Node("g2", without_master(seen()), api)
    run([fresh], int(SURE_S), NOW + 1)
    fresh.view = seen()
    run([fresh], 60, NOW + 1 + SURE_S)
    fresh.view = without_master(seen())
    run([fresh], int(SURE_S), NOW + 100)
    assert api.writes == [(NOW, "g1")]
    run([fresh], 1, NOW + 100 + SURE_S)
    assert api.writes[1:] == [(NOW + 100 + SURE_S, "g2")]


def test_a_node_that_flaps_and_is_contradicted_is_slowed_too() -> None:
    api = Api()
    right, flapping = Node("right", status(9), api), Node("flapping", seen(), api)
    for second in range(600):
        flapping.view = without_master(seen()) if second % 2 else status(8)
        run([flapping, right], 1, NOW + second)
    assert len(api.writes) <= 16


def test_who_follows_a_preferred_status_of_a_node_that_is_gone_writes_in_the_end() -> None:
    api = Api()
    gone, left = Node("gone", seen(), api), Node("left", without_master(seen()), api)
    run([gone, left], 60)
    assert api.item["status"]["activeNodeName"] == "g1"
    run([left], 120, NOW + 60)
    assert api.item["status"]["activeNodeName"] == ""


def test_a_node_whose_watch_is_stuck_overwrites_nothing() -> None:
    api = Api()
    stuck, other = Node("stuck", status(9), api), Node("other", status(3), api)
    run([stuck, other], 1)
    stuck.deaf = True
    other.view = status(4)
    run([other], 60)
    stuck.view = status(10)
    tries = stuck.tries
    run([stuck], 100, NOW + 60)
    assert stuck.tries == tries + 1
    assert api.writes[-1][1] == "other"
    stuck.deaf = False
    run([stuck], 1, NOW + 160)
    assert api.writes[-1][1] == "stuck"


@pytest.mark.parametrize("field", ["egressIPs", "readyNodes"])
def test_a_definition_without_a_field_costs_no_write_each_second(field: str) -> None:
    """That of another platform may have fewer than ours."""
    api = Api(prune=field)
    run([Node("g1", seen(), api)], 300)
    assert len(api.writes) == 1


def test_what_was_written_counts_until_the_watch_delivers_more() -> None:
    api = Api()
    node = Node("g1", seen(), api)
    run([node], 1)
    node.deaf, before = True, node.watched
    node.view = status(9)
    run([node], 5, NOW + 1)
    node.view = status(10)
    run([node], 5, NOW + 6)
    assert node.watched == before
    assert len(api.writes) == 3
    assert api.item["status"]["egressIPs"][0]["epoch"] == 10


@pytest.mark.parametrize(
    "found",
    [
        "ready", [], {"conditions": "x"}, {"conditions": {"type": "Ready"}}, {"conditions": [1, None, {"type": 3}]},
        {"egressIPs": 7}, {"egressIPs": ["a", {"epoch": "x"}, {"epoch": None}]}, {"observedGeneration": "9"},
    ],
)  # fmt: skip
def test_an_unexpected_status_is_replaced(found: Any) -> None:
    api = Api()
    api.item["status"] = found
    run([Node("g1", seen(), api)], 60)
    assert len(api.writes) == 1
    assert api.item["status"]["activeNodeName"] == "g1"


@pytest.mark.parametrize(
    ("field", "number"),
    [("observedGeneration", 1 << 40), ("epoch", 1 << 40), ("epoch", MAX_EPOCHS_MISSED + 8 + 1)],
)
def test_numbers_that_no_agent_has_written_keep_no_node_from_writing(field: str, number: int) -> None:
    """Whoever may write the status writes it again and again; then each node would wait for up to a day."""
    api = Api()
    node = Node("g1", status(8), api)
    run([node], 1)
    right = api.item["status"]
    forged = {**right, "activeNodeName": "nobody"}
    if field == "epoch":
        forged["egressIPs"] = [{**row, "epoch": number} for row in right["egressIPs"]]
    else:
        forged[field] = number
    for turn in range(20):
        api.item = {**api.item, "status": forged}
        api.writes.append((NOW + 10 * turn, "forger"))
        api._stamp()
        run([node], 2, NOW + 10 * turn + 1)
        assert api.item["status"]["activeNodeName"] == "g1"
