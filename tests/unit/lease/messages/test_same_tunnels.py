"""Tunnels that two nodes describe in different ways."""

from __future__ import annotations

from gateway_agent.lease.ipc import EgressIPSpec
from gateway_agent.lease.limits import MAX_TUNNELS
from gateway_agent.lease.messages.same_tunnels import CURRENT_NS as FACTS_TTL_NS
from gateway_agent.lease.messages.same_tunnels import LASTING_NS, PART_NS
from gateway_agent.lease.voting.protocol import SECOND

from .test_agreement import MINE, both, exchange


def spec(number: int = 1, vni: int = 100, sync: bool = False) -> EgressIPSpec:
    return EgressIPSpec(
        f"{number:016x}", "partner", f"172.16.0.{number}", ("g1", "g2"), vni=vni + number, sync=sync
    )


def test_tunnels_that_differ_are_named_on_both_ends_with_both_values() -> None:
    g1, g2 = both((spec(),), (spec(vni=200, sync=True),))
    exchange(g1, g2, 0)
    assert not [*g1.problems("g1"), *g2.problems("g2")], "an edit may be on its way"
    before = g1.revision
    exchange(g1, g2, LASTING_NS)
    assert g1.revision > before
    assert [text.partition(":")[0] for text in g1.problems("g1")] == [
        "connectionSync of partner 172.16.0.1 is false on this node (g1) and true on g2",
        "the tunnel's number (VNI) of partner 172.16.0.1 is 101 on this node (g1) and 201 on g2",
    ]
    assert ["is true on this node (g2) and false on g1" in text for text in g2.problems("g2")] == [
        True,
        False,
    ]


def test_of_many_egress_ips_each_is_compared() -> None:
    many = 5 * MAX_TUNNELS + 3
    mine = tuple(spec(number) for number in range(many))
    g1, g2 = both(mine, (*mine[:-1], spec(many - 1, vni=7)))
    for turn in range(20):
        exchange(g1, g2, turn * 2 * SECOND)
    assert len(list(g1.problems("g1"))) == len(list(g2.problems("g2"))) == 1


def test_a_difference_between_tunnels_ends_when_they_agree_or_it_is_sent_no_more() -> None:
    for end in ("agrees here", "agrees there", "gone here", "gone there", "node gone", "silent"):
        g1, g2 = both((spec(),), (spec(vni=200),))
        exchange(g1, g2, 0)
        exchange(g1, g2, LASTING_NS)
        assert list(g1.problems("g1"))
        before, now = g1.revision, LASTING_NS + 1
        if end == "agrees here":
            g1.configure(MINE, ("g2",), (spec(vni=200),))
        elif end == "agrees there":
            g2.configure(MINE, ("g1",), (spec(),))
        elif end == "gone here":
            g1.configure(MINE, ("g2",), ())
        elif end == "node gone":
            g1.configure(MINE, (), (spec(),))
        else:
            now += FACTS_TTL_NS + PART_NS
            g2.configure(MINE, ("g1",), ())
        if end == "silent":
            g1.start_period(now)
        elif end != "node gone":
            exchange(g1, g2, now)
        assert not list(g1.problems("g1")), end
        assert g1.revision > before, end
