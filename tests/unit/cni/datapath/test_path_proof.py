"""The expressions for probes, compared with the bytes of real ones; in a kernel: ``netns/test_probe_exception.py``."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.datapath import path_proof
from cni.kernel import ids
from gateway_agent.adapters.probes.tunnel_packet import encapsulated
from gateway_agent.policy.egress_node.path_faults import TunnelProbe

UDP = bytes(8)
ENDS = {4: ("10.0.0.11", "203.0.113.1"), 6: ("fd00::11", "2001:db8::1")}


def matches(expression: str, transport: bytes) -> bool:
    """Evaluate the raw expressions (``@th,OFFSET,BITS VALUE``) of a rule on a packet from its transport header on."""
    found = re.findall(r"@th,(\d+),(\d+) (\S+)", expression)
    assert found, expression
    whole, size = int.from_bytes(transport, "big"), 8 * len(transport)
    for offset, bits, value in ((int(o), int(b), int(v, 0)) for o, b, v in found):
        if offset + bits > size or whole >> (size - offset - bits) & ((1 << bits) - 1) != value:
            return False
    return True


def probe(family: int, number: int = 7, size: int = 0) -> bytes:
    source, destination = ENDS[family]
    return UDP + encapsulated(TunnelProbe(77, source, destination, size), "10.0.0.1", number)


def found_in(transport: bytes) -> list[bool]:
    return [matches(each, transport) for each in path_proof.OUTER]


@pytest.mark.parametrize("family", [4, 6])
@given(number=st.integers(0, 65535), size=st.sampled_from([0, 1280, 1450]))
def test_a_probe_is_known_by_one_expression_in_its_tunnel(family: int, number: int, size: int) -> None:
    assert found_in(probe(family, number, size)) == [family == 4, family == 6]


@pytest.mark.parametrize("family", [4, 6])
@given(bit=st.integers(0, 63))
def test_a_packet_with_other_numbers_is_none(family: int, bit: int) -> None:
    data = bytearray(probe(family))
    at = data.index(ids.PROBE_NUMBERS.to_bytes(8, "big"))
    data[at + bit // 8] ^= 1 << bit % 8
    assert found_in(bytes(data)) == [False, False]


@pytest.mark.parametrize(
    ("at", "value"),
    [(8 + 8 + 14, 0x46), (8 + 8 + 14 + 6, 0x20), (8 + 8 + 14 + 9, 17)],
    ids=["IP options", "a fragment", "another protocol"],
)
def test_where_the_numbers_could_be_elsewhere_it_is_none(at: int, value: int) -> None:
    data = bytearray(probe(4))
    data[at] = value
    assert found_in(bytes(data)) == [False, False]


@pytest.mark.parametrize("family", [4, 6])
def test_it_is_known_behind_its_tunnel_too(family: int) -> None:
    inner = probe(family)[8 + 8 + 14 + (20 if family == 4 else 40) :]
    assert matches(path_proof.INNER, inner)
    rule = path_proof.arrived('oifname "eth1"')
    assert rule.startswith(f'{path_proof.INNER} oifname "eth1" log group ')
    assert rule.endswith(" drop"), "no probe leaves the node"
