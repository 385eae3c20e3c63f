from __future__ import annotations

import msgspec

from gateway_agent.core.agreement import CURRENT_NS, MOST_NAMED, Agreement
from gateway_agent.core.keeping import Facts

MINE = Facts(4799, 250_000_000, False, "10.244.0.0/16")
OTHER_PORT = msgspec.structs.replace(MINE, tunnel_port=4800)


def agreement(**heard: Facts | None) -> Agreement:
    found = Agreement()
    found.configure(MINE, heard.keys())
    for name, facts in heard.items():
        found.hear(name, facts, 0)
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


def test_only_the_node_that_most_disagree_with_cannot_serve() -> None:
    assert agreement(g2=OTHER_PORT, g3=OTHER_PORT, g4=MINE).unfit()
    assert not agreement(g2=OTHER_PORT, g3=MINE, g4=MINE).unfit()
    assert not agreement(g2=OTHER_PORT).unfit(), "of two nodes neither is known to be wrong"


def test_what_agrees_again_is_gone_or_was_said_long_ago_is_no_problem() -> None:
    for end in ("agrees", "gone", "old"):
        found = agreement(g2=OTHER_PORT)
        before = found.revision
        if end == "agrees":
            found.hear("g2", MINE, 1)
        elif end == "gone":
            found.configure(MINE, ())
        else:
            found.forget_old(CURRENT_NS + 1)
        assert not list(found.problems("g1"))
        assert found.revision > before


def test_of_many_nodes_some_are_named_and_the_others_counted() -> None:
    found = list(agreement(**{f"n{number:02}": OTHER_PORT for number in range(40)}).problems("g1"))
    assert len(found) == MOST_NAMED + 1
    assert found[-1] == "24 more nodes have other settings than this node (g1)"
