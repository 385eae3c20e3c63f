"""Our names and numbers in the kernel."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.kernel import ids


@given(st.ip_addresses().map(str), st.booleans())
def test_inner_addresses_are_ours_and_written_as_the_kernel_writes_them(address: str, synced: bool) -> None:
    inner4, inner6 = ids.inner(address, 4, synced), ids.inner(address, 6, synced)
    if synced or ":" in address:
        network = ip_network("248.0.0.0/5" if synced else "240.0.0.0/5")
        assert ip_address(inner4) in network
        assert inner4 != "255.255.255.255"
    assert ip_address(inner6) in ip_network(f"{ids.SYNCED6 if synced else ids.INNER6}::/64")
    assert str(ip_address(inner6)) == inner6


def test_the_inner_ipv4_address_is_the_nodes_own_where_it_has_one() -> None:
    assert ids.inner("10.0.0.1", 4) == "10.0.0.1"
    assert ids.inner("10.0.0.1", 6) != ids.inner("10.0.0.2", 6)


@given(
    st.ip_addresses(v=4, network="10.0.0.0/8").map(str), st.ip_addresses(v=4, network="10.0.0.0/8").map(str)
)
def test_nodes_of_one_network_differ_in_what_synced_connections_come_from(one: str, other: str) -> None:
    assert (one == other) == (ids.inner(one, 4, synced=True) == ids.inner(other, 4, synced=True))


masks = st.integers(4, 32).flatmap(
    lambda bits: st.integers(0, 32 - bits).map(lambda shift: ((1 << bits) - 1) << shift)
)


@given(masks, st.data())
def test_every_mark_is_in_the_mask_and_no_two_uses_have_one_mark(mask: int, data: st.DataObject) -> None:
    layout = ids.MarkLayout(mask)
    drawn = data.draw(st.sets(st.integers(1, layout.numbers), min_size=1, max_size=6))
    marks = [*map(layout.number, drawn), *map(layout.leaving, drawn), layout.reply, layout.stale]
    assert len(set(marks)) == len(marks)
    assert all(mark and mark & mask == mark for mark in (*marks, layout.tunneled))
    assert layout.tunneled not in marks


@given(masks, st.data())
def test_marks_of_tunnels_differ_within_their_bits_and_look_like_one_of_a_tunnel(
    mask: int, data: st.DataObject
) -> None:
    layout = ids.MarkLayout(mask)
    numbers = st.integers(1, min(layout.inlets, 5000))
    drawn = data.draw(st.sets(numbers, min_size=2 if layout.inlets > 1 else 1, max_size=20))
    wide = layout.wide(max(drawn))
    marks = {number: layout.taken_in(number) for number in drawn}
    assert len(set(marks.values())) == len(drawn)
    for number, mark in marks.items():
        assert mark & wide == mark <= 0xFFFFFFFF
        assert layout.tunneled < mark & mask < layout.stale
        if number <= layout.numbers:
            assert mark == layout.tunneled | layout.number(number)
    assert layout.wide(0) == layout.wide(layout.numbers) == mask


def test_the_default_mask_has_room_for_many_tunnels_and_255_sets() -> None:
    layout = ids.MarkLayout(0x0FF00000)
    assert layout.sets == 255
    assert layout.inlets == 126 << 24
    assert layout.wide(1000) == 0x0FF00007
    assert {layout.policy_set(number) & ~layout.mask for number in range(1, 256)} == {0}


@pytest.mark.parametrize("mask", [0, 0x7, 0x5F, 0x1_0000_0000, 0x1F_0000_0000, -16])
def test_a_mask_that_is_no_run_of_four_bits_of_32_is_refused(mask: int) -> None:
    with pytest.raises(ValueError, match="4 or more adjacent bits"):
        ids.MarkLayout(mask)


@given(masks)
def test_a_number_outside_of_the_mask_is_refused(mask: int) -> None:
    layout = ids.MarkLayout(mask)
    for number in (0, -1, layout.numbers + 1):
        with pytest.raises(ValueError, match="the numbers that mark mask"):
            layout.number(number)


@given(st.text("0123456789abcdef", min_size=16, max_size=16))
def test_a_vni_has_24_bits_and_is_never_0(identity: str) -> None:
    number = ids.vni(identity)
    assert 0 < number < 1 << 24
    assert len(ids.device(number)) == 10


@pytest.mark.parametrize(
    ("group", "own"),
    [
        (0, False),
        (ids.GROUP_BASE - 1, False),
        (ids.GROUP_BASE, True),
        (ids.GROUP_BLOCKED, True),
        (ids.GROUP_BLOCKED + 1, False),
        (ids.GROUP_UNSELECTED, True),
    ],
)
def test_groups_of_other_programs_are_not_ours(group: int, own: bool) -> None:
    assert ids.is_own_group(group) is own


@pytest.mark.parametrize(
    ("table", "own"),
    [
        (254, False),
        (6999, False),
        (7000, True),
        (7000 + 0xFFFF, True),
        (7000 + 0x10000, False),
        (ids.EXIT_TABLE_BASE - 1, False),
        (ids.EXIT_TABLE_BASE, True),
        (ids.EXIT_TABLE_BASE + 0xFFFF, True),
    ],
)
def test_tables_of_other_programs_are_not_ours(table: int, own: bool) -> None:
    assert ids.is_own_table(table) is own
