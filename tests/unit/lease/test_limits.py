"""The bound of the epochs that a node takes from others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.lease.limits import (
    CONFIRMED_NS,
    EPOCH_STEP,
    HIGHEST_EPOCH,
    MAX_IDS,
    EpochLimit,
)

ONE, TWO = "0000000000000001", "0000000000000002"
steps = st.lists(
    st.tuples(
        st.integers(0, 2 * EPOCH_STEP) | st.integers(0, HIGHEST_EPOCH), st.integers(0, 2 * CONFIRMED_NS)
    ),
    max_size=12,
)


@given(steps)
def test_what_is_known_is_never_refused_whatever_came_before(
    messages: list[tuple[int, int]],
) -> None:
    limit, known, now = EpochLimit(), 0, 0
    for epoch, later in messages:
        now += later
        if not limit.refused({ONE: epoch}, {ONE: known}, now):
            known = max(known, epoch)
        assert not limit.refused({ONE: known}, {ONE: known}, now)


def test_one_epoch_out_of_reach_refuses_the_whole_message() -> None:
    limit, far = EpochLimit(), {ONE: 5 + 2 * EPOCH_STEP}
    assert not limit.refused({ONE: 5}, {}, 0)
    assert limit.refused({ONE: 5, TWO: HIGHEST_EPOCH}, {ONE: 5}, CONFIRMED_NS - 1) == TWO
    assert not limit.refused(far, {ONE: 5}, CONFIRMED_NS), "the refused message has confirmed nothing"


def test_ids_are_not_remembered_without_end_and_forgotten_ones_make_room() -> None:
    limit = EpochLimit()
    many = {f"{number:016x}": 1 for number in range(MAX_IDS + 10)}
    assert not limit.refused(many, {}, 0)
    assert len(limit._confirmed_at) == MAX_IDS
    limit.forget({ONE})
    assert set(limit._confirmed_at) == {ONE}


def test_what_is_known_holds_back_only_while_it_is_confirmed() -> None:
    limit, step = EpochLimit(), EPOCH_STEP
    assert not limit.refused({"a": 7}, {}, 0)
    assert limit.refused({"a": step + 8}, {"a": 7}, 1) == "a"
    assert not limit.refused({"a": step + 7}, {"a": 7}, 1)
    limit = EpochLimit()
    limit.refused({"a": 7}, {}, 0)
    assert limit.refused({"a": 2 * step}, {"a": 7}, CONFIRMED_NS - 1) == "a"
    # A lower one says nothing of what is right now.
    assert not limit.refused({"a": 6}, {"a": 7}, CONFIRMED_NS - 1)
    assert not limit.refused({"a": 2 * step}, {"a": 7}, CONFIRMED_NS)
    # There is always room above what is learned.
    highest = HIGHEST_EPOCH - step
    assert EpochLimit().refused({"a": highest + 1}, {}, 0) == "a"
    limit = EpochLimit()
    assert not limit.refused({"a": highest}, {}, 0)
    assert not limit.refused({"a": highest + 1}, {"a": highest}, 1)


def test_no_few_messages_use_up_the_room_below_the_bound() -> None:
    limit, known, now = EpochLimit(), 0, 0
    for _ in range(1000):
        now += CONFIRMED_NS
        reached = [each for each in (HIGHEST_EPOCH, HIGHEST_EPOCH - EPOCH_STEP, known + EPOCH_STEP, known + 16)
                   if not limit.refused({ONE: each}, {ONE: known}, now)]  # fmt: skip
        known = max([known, *reached])
    assert known < HIGHEST_EPOCH - EPOCH_STEP // 2
    assert not limit.refused({ONE: known + 1}, {ONE: known}, now)
