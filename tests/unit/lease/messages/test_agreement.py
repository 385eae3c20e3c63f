from __future__ import annotations

import msgspec

from gateway_agent.lease.ipc import EgressIPSpec, Facts
from gateway_agent.lease.messages.agreement import CURRENT_NS, MAX_CLOCK_DIFFERENCE_S, MAX_NAMED, Agreement
from gateway_agent.lease.voting.protocol import SECOND

MINE = Facts(4799, 250_000_000, False, "10.244.0.0/16")
OTHER_PORT = msgspec.structs.replace(MINE, tunnel_port=4800)


def agreement(**received: Facts | None) -> Agreement:
    found = Agreement()
    found.configure(MINE, received.keys())
    for name, facts in received.items():
        found.on_facts(name, facts, 0)
    return found


def test_each_setting_that_differs_is_named_with_both_nodes_and_values() -> None:
    other = Facts(4800, 500_000_000, True, "10.0.0.0/8")
    assert list(agreement(g2=other, g3=MINE).problems("g1")) == [
        f"{setting} is {mine} on this node (g1) and {there} on g2: it must be the same on all nodes"
        for setting, mine, there in (
            ("tunnel.port", "4799", "4800"),
            ("quorum", "Strict", "AvailabilityFirst"),
            ("lease.duration", "250ms", "500ms"),
            ("clusterCIDRs", "10.244.0.0/16", "10.0.0.0/8"),
        )
    ]


def test_keys_may_differ_and_older_versions_are_not_judged() -> None:
    assert not list(agreement(g2=msgspec.structs.replace(MINE, keys=(7,)), g3=None).problems("g1"))


def test_mark_masks_are_compared_between_nodes_that_sync_connections() -> None:
    """Marks leave a node with its connections only."""
    with_mask, other = (msgspec.structs.replace(MINE, mark_mask=mask) for mask in (0xFF00000, 0xFFF00000))
    found = Agreement()
    found.configure(with_mask, ("g2", "w1"))
    found.on_facts("g2", other, 0)
    found.on_facts("w1", MINE, 0)
    assert list(found.problems("g1")) == [
        "mark.mask is 0x0ff00000 on this node (g1) and 0xfff00000 on g2: it must be the same on all nodes "
        "that sync connections"
    ]
    assert not list(agreement(g2=other).problems("g1"))


def test_only_the_node_that_most_disagree_with_cannot_serve() -> None:
    assert agreement(g2=OTHER_PORT, g3=OTHER_PORT, g4=MINE).unfit()
    assert not agreement(g2=OTHER_PORT, g3=MINE, g4=MINE).unfit()
    assert not agreement(g2=OTHER_PORT).unfit(), "of two nodes neither is known to be wrong"


def test_what_agrees_again_is_gone_or_was_said_long_ago_is_no_problem() -> None:
    for end in ("agrees", "gone", "old"):
        found = agreement(g2=OTHER_PORT)
        before = found.revision
        if end == "agrees":
            found.on_facts("g2", MINE, 1)
        elif end == "gone":
            found.configure(MINE, ())
        else:
            found.start_period(CURRENT_NS + 1)
        assert not list(found.problems("g1"))
        assert found.revision > before


def test_of_many_nodes_some_are_named_and_the_others_counted() -> None:
    found = list(agreement(**{f"n{number:02}": OTHER_PORT for number in range(40)}).problems("g1"))
    assert len(found) == MAX_NAMED + 1
    assert found[-1] == "24 more nodes have other settings than this node (g1)"


def both(mine: tuple[EgressIPSpec, ...], other: tuple[EgressIPSpec, ...]) -> tuple[Agreement, Agreement]:
    """Return both ends, g1 and g2, that have told each other nothing yet."""
    g1, g2 = Agreement(), Agreement()
    g1.configure(MINE, ("g2",), mine)
    g2.configure(MINE, ("g1",), other)
    return g1, g2


def exchange(g1: Agreement, g2: Agreement, now: int, wall: tuple[int, int] = (0, 0)) -> None:
    """Pass the messages of one period between both."""
    messages = g1.own((), wall[0]), g2.own((), wall[1])
    g1.on_facts("g2", messages[1], now, wall[0])
    g2.on_facts("g1", messages[0], now, wall[1])
    g1.start_period(now)
    g2.start_period(now)


def test_clocks_that_differ_are_named_on_both_ends() -> None:
    g1, g2 = both((), ())
    hour, start = 3600 * SECOND, 1_800_000_000 * SECOND
    exchange(g1, g2, 0, (start, start + MAX_CLOCK_DIFFERENCE_S * SECOND))
    assert not [*g1.problems("g1"), *g2.problems("g2")]
    exchange(g1, g2, 1, (start, start + hour))
    [here], [there] = g1.problems("g1"), g2.problems("g2")
    assert here.startswith("the clock of g2 is 3600 s ahead of that of this node (g1): ")
    assert there.startswith("the clock of g1 is 3600 s behind that of this node (g2): ")
    before = g1.revision
    exchange(g1, g2, 2, (start, start + hour + SECOND))
    assert g1.revision == before, "a second more is no news"
    exchange(g1, g2, 3, (start + hour, start + hour))
    assert not [*g1.problems("g1"), *g2.problems("g2")]
    assert g1.revision > before
