"""Histograms as Prometheus has them."""

from __future__ import annotations

from gateway_agent.histogram import Histogram


def test_a_value_counts_for_each_bound_that_it_does_not_exceed() -> None:
    empty = Histogram((1, 10))
    assert empty.cumulated() == (0, 0, 0)
    found = empty.plus(1).plus(5).plus(11)
    assert found.cumulated() == (1, 2, 3)
    assert (found.number, found.total) == (3, 17)
    assert empty.number == 0
