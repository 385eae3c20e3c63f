"""Placement as a table, and its promises as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.lease.placement.placement import placement

NODES = ("g1", "g2", "g3")


@pytest.mark.parametrize(
    ("ready", "masters", "drained", "first"),
    [
        ({"x": NODES}, {"x": "g2"}, (), "g2"),
        ({"x": ("g1", "g3")}, {"x": "g2"}, (), "g1 g3"),
        ({"x": NODES}, {"x": "g2"}, ("g2",), "g1 g3"),
        ({"x": ("g3",)}, {}, (), "g3"),
        ({"x": ()}, {}, (), ""),
        ({}, {}, (), ""),
        ({"x": ("other",)}, {}, (), ""),
    ],
    ids=["keeps", "not ready", "drained", "the only one", "nobody", "nothing known", "not eligible"],
)
def test_who_comes_first(
    ready: dict[str, tuple[str, ...]], masters: dict[str, str], drained: tuple[str, ...], first: str
) -> None:
    order = placement({"x": NODES}, ready, masters, drained)["x"]
    assert set(order[:1]) <= set(first.split())
    assert bool(order) == bool(first)


def test_what_is_homeless_goes_to_the_node_with_the_fewest() -> None:
    everywhere = dict.fromkeys(("x", "y", "z"), NODES)
    order = placement(everywhere, everywhere, {"x": "g1", "y": "g2"})
    assert order["z"][0] == "g3"


ids = st.sampled_from([f"{n:016x}" for n in range(8)])
some = st.frozensets(st.sampled_from(NODES))


@given(
    st.dictionaries(ids, some), st.dictionaries(ids, some), st.dictionaries(ids, st.sampled_from(NODES)), some
)
def test_only_able_nodes_and_a_healthy_master_first(
    eligible: dict[str, frozenset[str]],
    ready: dict[str, frozenset[str]],
    masters: dict[str, str],
    drained: frozenset[str],
) -> None:
    order = placement(eligible, ready, masters, drained)
    for identity, nodes in eligible.items():
        able = (nodes & ready.get(identity, frozenset())) - drained
        assert set(order[identity]) == able
        assert len(order[identity]) == len(able)
        if masters.get(identity) in able:
            assert order[identity][0] == masters[identity]


@given(st.integers(1, 30))
def test_an_even_spread(count: int) -> None:
    everywhere = {f"{n:016x}": NODES for n in range(count)}
    firsts = [nodes[0] for nodes in placement(everywhere, everywhere, {}).values()]
    load = [firsts.count(node) for node in NODES]
    assert max(load) - min(load) <= 1
