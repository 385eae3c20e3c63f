"""What comes from the network and from the kernel as bytes: ARP and NDP frames, netlink messages."""

from __future__ import annotations

import random
import struct

from cni.kernel.netlink import links, monitor
from cni.kernel.netlink.constants import (
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MTU,
    IFLA_VXLAN_LOCAL,
)
from cni.kernel.netlink.messages import IFINFOMSG, LinkHeader, Request, attribute, encode, split
from cni.kernel.nftables import elements, table_digest
from gateway_agent.lease.virtual_ips import arp

from .calls import damaged

MAC = "02:00:00:00:00:07"
FRAMES = (
    arp.gratuitous("172.16.0.50", MAC), arp.advertisement("fd00::50", MAC), arp.probe("172.16.0.50", MAC),
    arp.probe("fd00::50", MAC),
)  # fmt: skip
LINK = IFINFOMSG.pack(
    LinkHeader(device_type=1, interface=7, flags=1),
    attribute(IFLA_IFNAME, b"egw1234\0"),
    attribute(IFLA_MTU, struct.pack("=I", 1450)),
    attribute(
        IFLA_LINKINFO,
        attribute(IFLA_INFO_KIND, b"vxlan\0")
        + attribute(IFLA_INFO_DATA, attribute(IFLA_VXLAN_LOCAL, bytes(4))),
    ),
)


def once(rng: random.Random) -> None:
    """Try one random frame and one random message of the kernel."""
    check_frame(some(rng.choice(FRAMES), rng))
    check_message(rng.randrange(1 << 12), some(LINK, rng))


def some(data: bytes, rng: random.Random) -> bytes:
    """Return ``data`` damaged several times, or bytes by chance."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(200))
    for _ in range(rng.randint(0, 3)):
        data = damaged(data, rng)[:4096]
    return data


def check_frame(frame: bytes) -> None:
    """Read one frame: an address and a MAC, or nothing."""
    found = arp.claimed_address(frame)
    if found is not None:
        address, mac = found
        assert arp.canonical(address) == address
        assert len(bytes.fromhex(mac.replace(":", ""))) == 6
    asked = arp.solicitation(frame)
    if asked is not None:
        assert arp.canonical(asked.target) == asked.target
        assert arp.claimed_address(arp.answer(asked, MAC)) == (asked.target, MAC)


def check_message(kind: int, body: bytes) -> None:
    """Read one netlink message as every reader of ours does."""
    received = list(split(encode(Request(kind, 0, body), 0, 1) + body))
    for parse in (monitor._route_event, monitor._table_event):
        assert all(event is None or isinstance(event, monitor.Event) for event in map(parse, received))
    found = IFINFOMSG.attributes(body)
    links.vxlan_of(1, found)
    links.name_of(found)
    assert elements.timeout_ms(body) >= 0
    list(table_digest._values(body))
    table_digest._expression(body)
