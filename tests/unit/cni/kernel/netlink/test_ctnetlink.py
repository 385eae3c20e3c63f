"""Listed connections are compared, whatever the kernel has filtered."""

from __future__ import annotations

import socket

import pytest

from cni.kernel.netlink import ctnetlink
from cni.kernel.netlink.constants import CTA_IP_SRC, CTA_TUPLE_IP, CTA_TUPLE_ORIG, CTA_TUPLE_REPLY
from cni.kernel.netlink.messages import NFGENMSG, NetfilterHeader, attribute, nested


@pytest.mark.parametrize(
    ("family", "source", "other"),
    [(socket.AF_INET, "10.244.1.5", "10.244.1.6"), (socket.AF_INET6, "fd00::5", "fd00::6")],
)
def test_the_source_of_each_direction(family: socket.AddressFamily, source: str, other: str) -> None:
    kind = CTA_IP_SRC[6 if family == socket.AF_INET6 else 4]

    def direction(name: int, address: str) -> bytes:
        ends = attribute(kind, socket.inet_pton(family, address))
        return nested(name, nested(CTA_TUPLE_IP, ends))

    listed = NFGENMSG.pack(NetfilterHeader(family))
    listed += direction(CTA_TUPLE_ORIG, source) + direction(CTA_TUPLE_REPLY, other)
    assert ctnetlink.source_of(listed, CTA_TUPLE_ORIG) == socket.inet_pton(family, source)
    assert ctnetlink.source_of(listed, CTA_TUPLE_REPLY) == socket.inet_pton(family, other)
    assert ctnetlink.source_of(NFGENMSG.pack(NetfilterHeader(family)), CTA_TUPLE_ORIG) == b""
