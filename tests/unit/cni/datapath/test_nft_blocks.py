"""Building blocks of nftables rules: no lookup lets a packet out by finding nothing, and no text of users gets in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.datapath import nft_blocks
from cni.datapath.nft_blocks import Marks, address_of, chain, dispatch, interface, mapping, transaction
from cni.kernel import ids
from cni.plan import PlanNode

from .test_objects import EGRESS, EGRESS6, NODES, NODES6, plan


def test_a_table_is_replaced_whole_and_an_empty_one_only_removed() -> None:
    head = "add table inet t\ndelete table inet t\n"
    assert transaction("inet", "t", []) == head
    assert transaction("inet", "t", [chain("a", ["accept"])]) == (
        head + "table inet t {\n\tchain a {\n\t\taccept\n\t}\n}\n"
    )


def test_a_base_chain_accepts_what_no_rule_drops() -> None:
    assert "type filter hook forward priority 0; policy accept;" in chain(
        "a", [], "filter hook forward priority 0"
    )


@given(st.dictionaries(st.integers(0, 9).map(str), st.sampled_from(["a", "b"]), max_size=4))
def test_a_dispatch_drops_what_it_does_not_find(targets: dict[str, str]) -> None:
    text = dispatch("by_slot", "meta mark", "mark", targets)
    rules = text[text.index("chain by_slot") :].splitlines()[1:-1]
    assert [rule.strip() for rule in rules] == ["meta mark vmap @by_slot_to", "counter drop"]
    for value, target in targets.items():
        assert f"{value} : goto {target}" in text


def test_an_empty_map_has_no_elements() -> None:
    assert "elements" not in mapping("m", "mark", [])
    assert "flags interval" in mapping("m", "ipv4_addr", [], interval=True)


@given(st.text(max_size=20))
def test_only_one_quoted_name_is_an_interface(name: str) -> None:
    quoted = interface(name)
    assert quoted in ("", f'"{name}"')
    if quoted:
        assert 1 <= len(name) <= 15
        assert not set(name) & set('"*\\ \n;{}')


@given(st.text(max_size=20))
def test_only_an_address_is_an_address(text: str) -> None:
    for family in (4, 6):
        try:
            found = address_of(text, family)
        except ValueError:
            continue
        assert set(found) <= set("0123456789abcdef.:%") | set(text.partition("%")[2])


@pytest.mark.parametrize("mask", [0x0FF00000, 0xF0, 0x0000FF00])
def test_marks_touch_only_the_bits_of_the_mask(mask: int) -> None:
    marks = Marks(replace(plan(), mask=mask))
    assert int(marks.mask, 16) ^ int(marks.rest, 16) == 0xFFFFFFFF
    values = [marks.of(1), marks.taken_in(1), marks.reply, marks.stale]
    assert all(int(value, 16) & ~mask == 0 for value in values)
    assert len(set(values)) == len(values)
    assert marks.put("ct", marks.of(1)) == f"ct mark set ct mark and {marks.rest} or {marks.of(1)}"
    assert marks.wide == marks.mask
    assert marks.take_in(1) == marks.put("ct", marks.taken_in(1)), "few tunnels need no bit beside the mask"


def test_only_a_node_that_can_be_master_gets_packets_by_tunnels() -> None:
    assert nft_blocks.senders(plan("w1")) == ()
    assert [node.name for node in nft_blocks.senders(plan("g1"))] == ["g2", "w1"]
    leaving = replace(EGRESS, eligible=("g2",), master="g1")
    assert nft_blocks.senders(plan("g1", leaving)), "a master serves until another one is known"


def test_the_two_ends_of_a_tunnel_are_of_one_family() -> None:
    mixed = (*NODES, PlanNode("w6", "fd00:10::99"))
    assert [node.name for node in nft_blocks.peers(plan("w1", nodes=mixed))] == ["g1", "g2"]
    assert [node.name for node in nft_blocks.peers(plan("w1", nodes=NODES6))] == ["g1", "g2"]


def test_connections_from_before_a_change_of_the_sync_keep_their_source() -> None:
    me = NODES[2]
    plain = nft_blocks.inner_sources(me, EGRESS)
    synced = nft_blocks.inner_sources(me, replace(EGRESS, sync=True))
    assert plain == tuple(reversed(synced))
    assert plain[0] == ids.inner(me.address, 4, False)


def test_a_node_without_the_address_of_this_family_shows_nothing() -> None:
    assert nft_blocks.interface_and_source(EGRESS) == ("", "")
    assert nft_blocks.interface_and_source(EGRESS6) == ('"eth1"', "fd00:172::50")
    assert nft_blocks.interface_and_source(replace(EGRESS6, source6="", source="172.16.0.7")) == ("", "")
