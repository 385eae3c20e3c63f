"""The echo messages of the upstream probe. The probe itself is tested in a namespace."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.adapters.probes.icmp_probe import echo_request, is_echo_reply

UNIT_16_BITS = st.integers(0, 0xFFFF)
IP_HEADER = b"\x45" + bytes(19)


def reply(identifier: int, sequence: int) -> bytes:
    return IP_HEADER + b"\0" + echo_request(identifier, sequence)[1:]


@given(UNIT_16_BITS, UNIT_16_BITS)
def test_the_checksum_makes_the_sum_of_all_16_bit_units_all_ones(identifier: int, sequence: int) -> None:
    total = sum(struct.unpack("!4H", echo_request(identifier, sequence)))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


@given(UNIT_16_BITS, UNIT_16_BITS)
def test_only_the_answer_to_this_request_counts(identifier: int, sequence: int) -> None:
    assert is_echo_reply(reply(identifier, sequence), identifier, sequence)
    assert not is_echo_reply(reply(identifier, sequence ^ 1), identifier, sequence)
    assert not is_echo_reply(reply(identifier ^ 1, sequence), identifier, sequence)
    assert not is_echo_reply(IP_HEADER + echo_request(identifier, sequence), identifier, sequence)


@pytest.mark.parametrize("length", range(28))
def test_a_short_packet_is_no_answer(length: int) -> None:
    assert not is_echo_reply(reply(1, 1)[:length], 1, 1)
