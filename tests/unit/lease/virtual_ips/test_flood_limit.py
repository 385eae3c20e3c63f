from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.lease.virtual_ips.flood_limit import FRAMES, PERIOD_NS, FloodLimit
from gateway_agent.lease.voting.protocol import NEVER

ADDRESSES = 20
FLOODED, OTHER = 0x0A000001, 0x0A000002


def flood(limit: FloodLimit, now: int, frames: int = FRAMES) -> list[bool]:
    return [limit.take(FLOODED, now) for _ in range(frames)]


def test_a_flooded_address_is_muted_until_its_period_ends() -> None:
    limit = FloodLimit()
    assert all(flood(limit, 1000))
    assert limit.muted == {FLOODED}
    assert limit.next_wake() == 1000 + PERIOD_NS
    assert not any(flood(limit, 2000))
    assert limit.unmute(1000 + PERIOD_NS) == {FLOODED}
    assert (limit.muted, limit.next_wake()) == (frozenset(), NEVER)
    assert limit.take(FLOODED, 1000 + PERIOD_NS)


def test_frames_about_another_address_are_taken_once_beside_a_flood() -> None:
    limit = FloodLimit()
    flood(limit, 0)
    assert limit.take(OTHER, 1)
    assert limit.muted == {FLOODED, OTHER}
    assert not limit.take(OTHER, 2)


def test_what_comes_slowly_is_never_muted() -> None:
    limit = FloodLimit()
    for number in range(10 * FRAMES):
        assert limit.take(FLOODED, number * PERIOD_NS // (FRAMES - 1) + number)
        assert not limit.muted


def test_an_address_of_an_earlier_period_is_not_muted_with_later_ones() -> None:
    limit = FloodLimit()
    limit.take(OTHER, 0)
    flood(limit, PERIOD_NS)
    assert limit.muted == {FLOODED}


@given(
    st.lists(
        st.tuples(st.integers(0, ADDRESSES - 1), st.integers(0, PERIOD_NS // 100)),
        min_size=FRAMES,
        max_size=20 * FRAMES,
    )
)
def test_frames_are_bounded_and_a_muted_address_was_noticed_in_the_same_period(
    frames: list[tuple[int, int]],
) -> None:
    """Each frame: an address, and the time since the frame before."""
    limit, now, taken = FloodLimit(), 0, list[tuple[int, int]]()
    for address, gap in frames:
        now += gap
        if now >= limit.next_wake():
            limit.unmute(now)
        if limit.take(address, now):
            taken.append((now, address))
        if limit.muted:
            began = limit.next_wake() - PERIOD_NS
            assert began <= now < limit.next_wake()
            in_period = [of for at, of in taken if at >= began]
            assert limit.muted <= set(in_period)
            assert len(in_period) < 2 * (FRAMES + ADDRESSES)
