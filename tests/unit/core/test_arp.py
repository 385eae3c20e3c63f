"""The frames, octet by octet, and who they say has which address."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.core import arp

MAC = "02:00:00:00:00:50"


def test_gratuitous_arp_is_a_request_by_and_for_the_address() -> None:
    assert arp.gratuitous("172.16.0.50", MAC).hex(" ", 2) == (
        "ffff ffff ffff 0200 0000 0050 0806"
        " 0001 0800 0604 0001 0200 0000 0050 ac10 0032 0000 0000 0000 ac10 0032"
    )


def test_an_arp_probe_has_no_sender() -> None:
    assert arp.probe("172.16.0.50", MAC).hex(" ", 2) == (
        "ffff ffff ffff 0200 0000 0050 0806"
        " 0001 0800 0604 0001 0200 0000 0050 0000 0000 0000 0000 0000 ac10 0032"
    )


def test_an_advertisement_goes_to_all_nodes_with_the_override_flag() -> None:
    assert arp.advertisement("2001:db8::50", MAC).hex(" ", 2) == (
        "3333 0000 0001 0200 0000 0050 86dd"
        " 6000 0000 0020 3aff 2001 0db8 0000 0000 0000 0000 0000 0050 ff02 0000 0000 0000 0000 0000 0000 0001"
        " 8800 f83d 2000 0000 2001 0db8 0000 0000 0000 0000 0000 0050 0201 0200 0000 0050"
    )


def test_an_ipv6_probe_goes_to_the_solicited_node_group_from_nowhere() -> None:
    assert arp.probe("2001:db8::12:3456", MAC).hex(" ", 2) == (
        "3333 ff12 3456 0200 0000 0050 86dd"
        " 6000 0000 0018 3aff 0000 0000 0000 0000 0000 0000 0000 0000 ff02 0000 0000 0000 0000 0001 ff12 3456"
        " 8700 e41e 0000 0000 2001 0db8 0000 0000 0000 0000 0012 3456"
    )


def test_who_claims() -> None:
    assert arp.claimant(arp.gratuitous("172.16.0.50", MAC)) == ("172.16.0.50", MAC)
    assert arp.claimant(arp.advertisement("2001:db8::50", MAC)) == ("2001:db8::50", MAC)


def test_an_answer_claims_too() -> None:
    frame = bytearray(arp.gratuitous("172.16.0.50", MAC))
    frame[21] = 2
    assert arp.claimant(bytes(frame)) == ("172.16.0.50", MAC)


def test_without_its_option_an_advertisement_claims_for_who_sent_the_frame() -> None:
    frame = arp.advertisement("2001:db8::50", "02:00:00:00:00:01")[:-8]
    assert arp.claimant(frame) == ("2001:db8::50", "02:00:00:00:00:01")


@pytest.mark.parametrize("address", ["172.16.0.50", "2001:db8::50"])
def test_who_asks_claims_nothing(address: str) -> None:
    assert arp.claimant(arp.probe(address, MAC)) is None


def test_what_has_come_through_a_router_claims_nothing() -> None:
    frame = bytearray(arp.advertisement("2001:db8::50", MAC))
    frame[21] = 254
    assert arp.claimant(bytes(frame)) is None


@given(st.binary(max_size=100))
def test_no_frame_is_too_strange(rest: bytes) -> None:
    for head in (arp.gratuitous("172.16.0.50", MAC), arp.advertisement("2001:db8::50", MAC)):
        for cut in (0, 14, 20, 42, 54, 78, len(head)):
            found = arp.claimant(head[:cut] + rest)
            assert found is None or len(found) == 2


@pytest.mark.parametrize("mac", ["02:00:00:00:00", "nonsense", ""])
def test_what_is_no_mac(mac: str) -> None:
    with pytest.raises(ValueError):
        arp.gratuitous("172.16.0.50", mac)


def test_addresses_are_written_one_way() -> None:
    assert arp.canonical("2001:DB8:0::50") == "2001:db8::50"
