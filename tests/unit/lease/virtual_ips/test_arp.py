"""The frames, octet by octet, and who they say has which address."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.lease.virtual_ips import arp

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


OTHER_MAC = "02:00:00:00:00:02"


def question(source: str = "fe80::2", group: str = "ff02::1:ff00:50", option: int = 1) -> bytes:
    """Return a solicitation for 2001:db8::50 by a machine."""
    target, asker, receiver = (ipaddress.IPv6Address(each).packed for each in ("2001:db8::50", source, group))
    message = arp.NEIGHBOR.pack(arp.NEIGHBOR_SOLICITATION, 0, 0, 0, target)
    mac = bytes.fromhex(OTHER_MAC.replace(":", ""))
    message += bytes([option, 1]) + mac if option else b""
    header = b"\x33\x33" + receiver[12:] + mac + b"\x86\xdd"
    return header + arp.IPV6.pack(6 << 28, len(message), arp.ICMPV6, arp.HOP_LIMIT, asker, receiver) + message


def test_who_asks_is_answered_by_the_address_itself() -> None:
    asked = arp.solicitation(question())
    assert asked is not None
    # The target, and the source by which the fence judges the frame, are the address; solicited, override.
    assert arp.answer(asked, MAC).hex(" ", 2) == (
        "0200 0000 0002 0200 0000 0050 86dd"
        " 6000 0000 0020 3aff 2001 0db8 0000 0000 0000 0000 0000 0050 fe80 0000 0000 0000 0000 0000 0000 0002"
        " 8800 b8be 6000 0000 2001 0db8 0000 0000 0000 0000 0000 0050 0201 0200 0000 0050"
    )


def test_who_looks_for_a_duplicate_is_answered_before_all() -> None:
    asked = arp.solicitation(arp.probe("2001:db8::50", OTHER_MAC))
    assert asked is not None
    assert arp.answer(asked, MAC) == arp.advertisement("2001:db8::50", MAC)


def test_without_its_option_a_question_is_answered_to_who_sent_the_frame() -> None:
    asked = arp.solicitation(question(option=0))
    assert asked is not None
    assert asked.mac.hex(":") == OTHER_MAC


@pytest.mark.parametrize(
    "frame",
    [
        arp.advertisement("2001:db8::50", MAC),
        arp.gratuitous("172.16.0.50", MAC),
        question(source="::"),
        question(source="::", group="2001:db8::50", option=0),
        question(source="ff02::1"),
        question()[:21] + b"\xfe" + question()[22:],
        question()[:60],
    ],
    ids=[
        "answer",
        "ARP",
        "duplicate with option",
        "duplicate by unicast",
        "from a group",
        "routed",
        "cut off",
    ],
)
def test_what_is_no_question(frame: bytes) -> None:
    assert arp.solicitation(frame) is None


def test_the_group_at_which_an_address_is_asked_for() -> None:
    assert arp.solicited_node("2001:db8::12:3456") == "ff02::1:ff12:3456"


def test_who_claims() -> None:
    assert arp.claimed_address(arp.gratuitous("172.16.0.50", MAC)) == ("172.16.0.50", MAC)
    assert arp.claimed_address(arp.advertisement("2001:db8::50", MAC)) == ("2001:db8::50", MAC)


def test_an_answer_claims_too() -> None:
    frame = bytearray(arp.gratuitous("172.16.0.50", MAC))
    frame[21] = 2
    assert arp.claimed_address(bytes(frame)) == ("172.16.0.50", MAC)


def test_without_its_option_an_advertisement_claims_for_who_sent_the_frame() -> None:
    frame = arp.advertisement("2001:db8::50", "02:00:00:00:00:01")[:-8]
    assert arp.claimed_address(frame) == ("2001:db8::50", "02:00:00:00:00:01")


@pytest.mark.parametrize("address", ["172.16.0.50", "2001:db8::50"])
def test_who_asks_claims_nothing(address: str) -> None:
    assert arp.claimed_address(arp.probe(address, MAC)) is None


def test_what_has_come_through_a_router_claims_nothing() -> None:
    frame = bytearray(arp.advertisement("2001:db8::50", MAC))
    frame[21] = 254
    assert arp.claimed_address(bytes(frame)) is None


@given(st.binary(max_size=100))
def test_no_frame_is_too_strange(rest: bytes) -> None:
    for head in (question(), arp.gratuitous("172.16.0.50", MAC), arp.advertisement("2001:db8::50", MAC)):
        for cut in (0, 14, 20, 42, 54, 78, len(head)):
            frame = head[:cut] + rest
            asked = arp.solicitation(frame)
            assert asked is None or arp.answer(asked, MAC)
            found = arp.claimed_address(frame)
            assert found is None or len(found) == 2


@pytest.mark.parametrize("mac", ["02:00:00:00:00", "nonsense", ""])
def test_what_is_no_mac(mac: str) -> None:
    with pytest.raises(ValueError):
        arp.gratuitous("172.16.0.50", mac)


def test_addresses_are_written_one_way() -> None:
    assert arp.canonical("2001:DB8:0::50") == "2001:db8::50"
