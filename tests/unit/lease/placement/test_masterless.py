"""What may still be evened out after a takeover, and what ends that."""

from __future__ import annotations

import pytest

from gateway_agent.lease.egress_ips.egress_ip import EgressIPs
from gateway_agent.lease.placement.masterless import REBALANCE_WINDOW_NS, Masterless
from gateway_agent.lease.voting.protocol import SECOND

IDS = ("a", "b", "c")


def taken_over() -> Masterless:
    """Three egress IPs that two nodes have just taken over."""
    known = Masterless(EgressIPs())
    known.update(IDS, {}, {}, (), 0)
    known.update(IDS, {"a": "g1", "b": "g2", "c": "g2"}, {}, (), SECOND)
    return known


def test_what_was_taken_over_is_young_for_a_while() -> None:
    known = taken_over()
    assert known.fresh(SECOND).keys() == {*IDS}
    assert not known.fresh(SECOND + REBALANCE_WINDOW_NS)


@pytest.mark.parametrize(("shared", "young"), [((), {"c"}), (("b",), {*IDS})], ids=["as asked", "evened out"])
def test_a_handover_that_was_asked_for_moves_nothing_else_of_its_receiver(
    shared: tuple[str, ...], young: set[str]
) -> None:
    known = taken_over()
    known.update(IDS, {"a": "g1", "b": "g1", "c": "g2"}, {"b": "g1"}, shared, 2 * SECOND)
    assert known.fresh(2 * SECOND).keys() == young
