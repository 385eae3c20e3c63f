"""Connections as put together from what nodes have seen."""

from __future__ import annotations

import msgspec
import pytest

from gateway_agent.connection_log.halves import UNKNOWN_END, UNKNOWN_POD, Half
from gateway_agent.connection_log.recorder import END, START
from gateway_agent.connection_log.sightings import (
    MAX_SIGHTINGS,
    OPEN,
    Connection,
    Query,
    Sighting,
    connections,
    joined,
    matches,
    nearest,
    worker_query,
)

SHOWN, INSIDE, TO = ("172.16.0.50", 40000), ("10.0.0.21", 50001), ("203.0.113.10", 443)
OUTER = Half("partner", SHOWN, "tcp", TO, "w1", INSIDE, UNKNOWN_POD, UNKNOWN_END)
INNER = OUTER._replace(shown=("172.16.0.50", 0), pod=("prod", "api"), pod_end=("10.244.1.5", 33000))


def at(
    event: str, seconds: float, half: Half = OUTER, by: str = "g1", out: int = -1, back: int = -1
) -> Sighting:
    return Sighting(event, seconds, half, out, back, by)


def inner(event: str, seconds: float, half: Half = INNER) -> Sighting:
    return at(event, seconds, half, "w1")


def test_a_start_and_its_end_are_one_connection() -> None:
    [found] = connections([at(END, 20.0, out=5, back=7), at(START, 10.0)])
    assert found == Connection(OUTER, "g1", 10.0, 20.0, False, 5, 7)


def test_the_same_ends_may_come_again() -> None:
    found = connections([at(START, 10), at(END, 20), at(START, 30), at(END, 40), at(START, 50), at(OPEN, 60)])
    assert [(one.start, one.end, one.is_open) for one in found] == [
        (50, None, True), (30, 40, False), (10, 20, False)
    ]  # fmt: skip


def test_what_was_lost_leaves_halves() -> None:
    found = connections([at(END, 5), at(START, 10), at(START, 30), at(END, 40)])
    assert [(one.start, one.end) for one in found] == [(30, 40), (10, None), (None, 5)]


def test_a_connection_that_ends_and_begins_at_once_is_two() -> None:
    """All events that are read together have one time."""
    found = connections([at(START, 10), at(END, 20), at(START, 20), at(END, 30)])
    assert [(one.start, one.end) for one in found] == [(20, 30), (10, 20)]
    [short] = connections([at(START, 20), at(END, 20)])
    assert (short.start, short.end) == (20, 20)


def test_two_nodes_are_not_mixed() -> None:
    assert len(connections([at(START, 10), inner(START, 10)])) == 2


@pytest.mark.parametrize(
    ("query", "half", "is_it"),
    [
        (Query(SHOWN), OUTER, True),
        (Query(SHOWN), INNER, False),
        (Query(INSIDE, inside=True), INNER, True),
        (Query(INSIDE), OUTER, False),
        (Query(SHOWN, to=TO), OUTER, True),
        (Query(SHOWN, to=(TO[0], 0)), OUTER, True),
        (Query(SHOWN, to=(TO[0], 80)), OUTER, False),
        (Query(SHOWN, to=("203.0.113.9", 0)), OUTER, False),
        (Query(SHOWN, protocol="udp"), OUTER, False),
        (Query(SHOWN, protocol="tcp"), OUTER, True),
    ],
)
def test_matches(query: Query, half: Half, is_it: bool) -> None:
    assert matches(query, half) is is_it


def test_the_worker_is_asked_for_the_pod() -> None:
    [closed] = connections([at(START, 10), at(END, 20)])
    assert worker_query(closed) == Query(INSIDE, True, TO, "tcp", 10)
    [still] = connections([at(OPEN, 20)])
    assert worker_query(still) == Query(INSIDE, True, TO, "tcp")
    [known] = connections([inner(OPEN, 20)])
    assert worker_query(known) is None
    own = OUTER._replace(inside=UNKNOWN_END)
    assert worker_query(Connection(own, "g1")) is None


def test_the_halves_are_joined_by_what_is_inside() -> None:
    [outer] = connections([at(START, 10), at(END, 20, out=5, back=7)])
    others = connections(
        [inner(START, 10.2), inner(END, 20.3), inner(OPEN, 30, INNER._replace(inside=("10.0.0.21", 1)))]
    )
    found = joined(outer, others)
    assert (found.half.pod, found.half.pod_end, found.half.shown) == (INNER.pod, INNER.pod_end, SHOWN)
    assert (found.start, found.end, found.bytes_out) == (10, 20, 5)


def test_of_several_the_nearest_is_the_other_half() -> None:
    """The port inside came again, for another pod."""
    [outer] = connections([at(START, 100), at(END, 110)])
    later = INNER._replace(pod=("prod", "later"))
    others = connections(
        [inner(START, 97), inner(END, 99), inner(START, 100.1, later), inner(END, 110, later)]
    )
    assert joined(outer, others).half.pod == ("prod", "later")


def test_another_time_is_another_connection() -> None:
    [outer] = connections([at(START, 100), at(END, 110)])
    assert joined(outer, connections([inner(START, 10), inner(END, 20)])) == outer
    assert joined(outer, []) == outer


@pytest.mark.parametrize(
    ("start", "end", "was"),
    [(10, 20, False), (10, 98, True), (10, None, True), (102, None, True), (110, None, False), (None, 50, False),
     (None, 120, True), (None, None, True)],
)  # fmt: skip
def test_the_time_that_is_asked_for(start: float | None, end: float | None, was: bool) -> None:
    assert Connection(OUTER, "g1", start, end).was_open_at(100) is was


def test_an_answer_is_bounded_and_has_the_nearest() -> None:
    many = [at(START, float(number)) for number in range(3 * MAX_SIGHTINGS)]
    assert {each.seconds for each in nearest(Query(SHOWN), many)} == set(
        map(float, range(2 * MAX_SIGHTINGS, 3 * MAX_SIGHTINGS))
    )
    around = nearest(Query(SHOWN, at=500.0), many)
    assert len(around) == MAX_SIGHTINGS
    assert all(abs(each.seconds - 500) <= MAX_SIGHTINGS / 2 for each in around)


def test_questions_and_answers_go_over_a_wire() -> None:
    for whole in (Query(SHOWN, True, TO, "tcp", 1.5), at(OPEN, 2.5, INNER)):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(whole), type=type(whole)) == whole
