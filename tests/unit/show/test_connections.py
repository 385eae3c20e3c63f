"""The answer of ``egressctl whois -o json``."""

from __future__ import annotations

from typing import Any

import pytest

from gateway_agent.connection_log.halves import Half
from gateway_agent.connection_log.sightings import Connection, Query
from gateway_agent.show.connections import answer

AT_S = 1795294800.0
"""2026-11-21T21:00:00Z"""
QUERY = Query(("172.16.0.50", 40000))
HALF = Half(
    gateway="partner",
    shown=("172.16.0.50", 40000),
    protocol="tcp",
    destination=("203.0.113.10", 443),
    node="w1",
    inside=("172.16.0.21", 33000),
    pod=("prod", "web"),
    pod_end=("10.0.0.7", 51000),
)


def shown(**facts: Any) -> dict[str, Any]:
    [found] = answer(QUERY, [Connection(HALF, "g1", **facts)], {}, True)["connections"]
    return dict(found)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, {"start": None, "end": None, "open": False, "bytesOut": None, "bytesIn": None}),
        (
            {"start": AT_S, "is_open": True},
            {"start": "2026-11-21T21:00:00.000Z", "end": None, "open": True, "bytesOut": None},
        ),
        (
            {"start": AT_S, "end": AT_S + 1.5, "bytes_out": 0, "bytes_in": 1200},
            {"end": "2026-11-21T21:00:01.500Z", "bytesOut": 0, "bytesIn": 1200, "open": False},
        ),
    ],
    ids=["nothing known", "open", "over"],
)
def test_what_is_not_known_or_not_counted_is_null(facts: dict[str, Any], expected: dict[str, Any]) -> None:
    found = shown(**facts)
    assert {name: found[name] for name in expected} == expected


def test_both_halves_are_shown_with_their_ends() -> None:
    found = shown()
    assert (found["egressIP"], found["egressPort"]) == HALF.shown
    assert (found["podAddress"], found["podPort"]) == HALF.pod_end
    assert (found["nodeAddress"], found["nodePort"]) == HALF.inside
    assert (found["destination"], found["destinationPort"]) == HALF.destination
    assert (found["namespace"], found["pod"], found["node"], found["by"]) == ("prod", "web", "w1", "g1")


def test_a_port_that_is_not_known_is_null() -> None:
    half = HALF._replace(pod_end=("", 0), protocol="icmp")
    [found] = answer(QUERY, [Connection(half, "g1")], {}, True)["connections"]
    assert (found["podAddress"], found["podPort"]) == ("", None)


def test_nodes_without_an_answer_are_named_in_order_and_a_missing_log_is_said() -> None:
    found = answer(QUERY, [], {"w2": "no answer in time", "g1": "no route"}, False)
    assert found["silent"] == [
        {"node": "g1", "reason": "no route"},
        {"node": "w2", "reason": "no answer in time"},
    ]
    assert (found["ip"], found["port"], found["connections"], found["log"]) == (
        "172.16.0.50",
        40000,
        [],
        False,
    )
