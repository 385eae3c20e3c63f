"""What tunnels and heartbeats go over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cni.kernel import ids
from cni.plan import PlanNode
from gateway_agent.manifests.model import Node, Problem
from gateway_agent.policy import underlay


def nodes(*addresses: tuple[str, ...]) -> list[Node]:
    return [Node(f"n{number}", {}, own, "nodes.yaml") for number, own in enumerate(addresses)]


V4, V4B, V6, V6B, V6C = ("10.0.0.1",), ("10.0.0.2",), ("fd00::1",), ("fd00::2",), ("fd00::3",)
BOTH, BOTH_B = ("fd00::4", "10.0.0.4"), ("10.0.0.5", "fd00::5")


@pytest.mark.parametrize(
    ("addresses", "family"),
    [
        ((), 4),
        ((V4,), 4),
        ((V6,), 6),
        ((V6, V6B), 6),
        ((BOTH, BOTH_B), 4),
        ((V4, V6), 4),
        ((BOTH, V6), 4),
        ((BOTH, V6, V6B), 6),
        ((V4, V6, V6B), 6),
        ((V4, BOTH, V6), 4),
        ((("fe80::1",), ("fe80::2",), V4), 4),
    ],
)
def test_family_of_the_cluster(addresses: tuple[tuple[str, ...], ...], family: int) -> None:
    assert underlay.family(nodes(*addresses)) == family


def test_each_node_is_known_by_its_first_address_of_that_family() -> None:
    found = nodes(("fe80::9", "fd00::4", "fd00::44", "10.0.0.4"), V6, V6B)
    problems: list[Problem] = []
    assert underlay.place(found, problems) == (
        PlanNode("n0", "fd00::4", "fd00::4"),
        PlanNode("n1", "fd00::1", "fd00::1"),
        PlanNode("n2", "fd00::2", "fd00::2"),
    )
    assert problems == []
    assert underlay.own_address(found, "n0") == "fd00::4"
    assert underlay.own_address(nodes(BOTH, BOTH_B), "n0") == "10.0.0.4"
    assert underlay.own_address(nodes(V4, V6), "n1") == ""


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        ((), "node n2 has no address"),
        (("fe80::1", "::ffff:10.0.0.9"), "node n2 has no address that others can reach: fe80::1, ::ffff:10.0.0.9"),
        (V6, "node n2 has no IPv4 address, and the tunnels of this cluster are over IPv4: its selected pods reach no"
             " gateway, and it can be none"),
        (V4B, "node n2 has 10.0.0.2, which is the address of node n1"),
    ],
)  # fmt: skip
def test_a_node_that_is_left_out(addresses: tuple[str, ...], message: str) -> None:
    problems: list[Problem] = []
    placed = underlay.place(nodes(V4, V4B, addresses), problems)
    assert [node.name for node in placed] == ["n0", "n1"]
    assert [(problem.source, problem.path, problem.message) for problem in problems] == [
        ("nodes.yaml", "status.addresses", message)
    ]


def test_an_address_of_two_nodes_stays_with_the_older_one() -> None:
    """A node that joins later takes no node out of the cluster, whatever its name is."""
    younger, older = nodes(V4, V4)
    older = replace(older, created="2026-01-01T00:00:00Z")
    problems: list[Problem] = []
    placed = underlay.place([replace(younger, created="2026-01-02T00:00:00Z"), older], problems)
    assert [node.name for node in placed] == ["n1"]
    assert [problem.message for problem in problems] == [
        "node n0 has 10.0.0.1, which is the address of node n1"
    ]


def test_two_ipv6_addresses_with_one_number_in_the_tunnels() -> None:
    """27 bits for the inner IPv4 address are few enough that it happens; then answers would go to the wrong node."""
    first, second = "fd00:1::1:2f7", "fd00:1::1:151b"
    problems: list[Problem] = []
    placed = underlay.place(nodes((first,), (second,), V6), problems)
    assert [node.address for node in placed] == [first, "fd00::1"]
    (problem,) = problems
    assert problem.message == (
        f"node n1: {second} gives it {ids.inner(first, 4)} in the tunnels, which node n0 has"
    )


def test_two_ipv4_addresses_with_one_number_for_synced_connections() -> None:
    problems: list[Problem] = []
    placed = underlay.place(nodes(("10.0.0.1",), ("42.0.0.1",), V4B), problems)
    assert [node.address for node in placed] == ["10.0.0.1", "10.0.0.2"]
    assert [problem.message for problem in problems] == [
        "node n1: 42.0.0.1 gives it 250.0.0.1 in the tunnels, which node n0 has"
    ]


def test_some_of_the_other_nodes_those_named_first() -> None:
    found = nodes(V4, V4B, ("10.0.0.3",), ("fd00::9",), ("10.0.0.5",))
    assert underlay.others(found, "n1", {"n4"}, 2) == ("10.0.0.5", "10.0.0.1")
    assert underlay.others(found, "n1", (), 9) == ("10.0.0.1", "10.0.0.3", "10.0.0.5")
    assert underlay.others((), "n1", (), 9) == ()
