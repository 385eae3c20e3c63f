from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.lease.messages.rate_limiter import RateLimiter

GAP, BURST = 10, 3


def test_some_at_once_then_one_each_gap() -> None:
    pace = RateLimiter(BURST, GAP)
    assert [pace.take(100) for _ in range(5)] == [True, True, True, False, False]
    assert pace.next() == 110
    assert [pace.take(now) for now in (109, 110, 110, 120)] == [False, True, False, True]
    assert [pace.take(1000) for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.integers(0, 30), max_size=60))
def test_never_more_than_the_rate_and_the_burst(pauses: list[int]) -> None:
    pace, now, taken = RateLimiter(BURST, GAP), 1000, []
    for pause in pauses:
        now += pause
        allowed = now >= pace.next()
        if pace.take(now):
            taken.append(now)
        assert allowed == (taken[-1:] == [now] and allowed)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= BURST + (taken[last] - taken[first]) // GAP
