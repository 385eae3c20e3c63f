"""Results are kept by the identity of what they were worked out of."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.policy.kept_results import MAX_KEPT, Kept


def fresh(*numbers: int) -> tuple[int, ...]:
    return tuple(numbers)


def test_the_same_object_is_worked_out_once_and_an_equal_one_anew() -> None:
    asked: list[tuple[int, ...]] = []

    def total(of: tuple[int, ...]) -> int:
        asked.append(of)
        return sum(of)

    kept, one, equal = Kept(total), fresh(1, 2), fresh(1, 2)
    assert [kept(one), kept(one), kept(equal), kept(one)] == [3, 3, 3, 3]
    assert len(asked) == 2 and asked[0] is one and asked[1] is equal


@given(st.lists(st.integers(0, 2 * MAX_KEPT), max_size=60))
def test_in_any_order_of_any_number_of_objects_the_results_are_right(order: list[int]) -> None:
    objects = [fresh(number, 1) for number in range(2 * MAX_KEPT + 1)]
    kept: Kept[tuple[int, ...], int] = Kept(sum)
    assert [kept(objects[number]) for number in order] == [number + 1 for number in order]
