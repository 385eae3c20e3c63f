"""Numbers for keys: stable, and reused late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.policy.id_allocation import assign


def test_a_key_keeps_its_number_and_new_keys_get_the_lowest_free_ones() -> None:
    assert assign(["b", "c", "a"], {"a": 2}, 9) == {"a": 2, "b": 1, "c": 3}


def test_a_number_that_was_just_in_use_is_given_last() -> None:
    assert assign(["new"], {"gone": 1}, 3) == {"new": 2}
    assert assign(["x", "y", "z"], {"gone": 1}, 3) == {"x": 2, "y": 3, "z": 1}


def test_without_a_number_left_a_key_has_none() -> None:
    assert assign(["a", "b", "c"], {"c": 1}, 2) == {"c": 1, "a": 2}


@given(
    st.lists(st.integers(0, 30), unique=True, max_size=20),
    st.lists(st.integers(0, 30), unique=True, max_size=10),
    st.integers(10, 20),
)
def test_numbers_are_distinct_and_in_range(keys: list[int], before: list[int], highest: int) -> None:
    old = {key: number for number, key in enumerate(before, 1)}
    found = assign(keys, old, highest)
    assert len(set(found.values())) == len(found) == min(len(keys), highest)
    assert all(1 <= number <= highest for number in found.values())
    assert all(found[key] == old[key] for key in keys if key in old)
