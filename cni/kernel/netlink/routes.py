"""The machine's routes, by netlink alone: a node may have all routes of the Internet."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .. import ids
from . import messages
from .constants import (
    FAMILIES,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_GATEWAY,
    RTA_IIF,
    RTA_MARK,
    RTA_MULTIPATH,
    RTA_OIF,
    RTA_PRIORITY,
    RTA_SRC,
    RTA_TABLE,
    RTM_GETROUTE,
    RTN_UNICAST,
)
from .messages import RTMSG, RTNEXTHOP, RouteHeader, attribute, integer
from .netlink_socket import Socket


@dataclass(frozen=True, order=True)
class NextHop:
    """One next hop of a route."""

    version: int
    """4 or 6."""
    main: bool
    """True if the route is in the main table."""
    metric: int
    """The lowest metric counts."""
    place: int
    """Among the route's next hops: the first one counts."""
    interface: str
    gateway: str
    """The router's address; empty if the destination is on the link."""
    length: int
    """Length of the route's prefix in bits; 0 for a default route."""
    prefix: int
    """The bits of the prefix."""


def next_hops() -> Iterator[NextHop]:
    """Yield the next hops of every unicast route of the machine that is not ours, of each IP version of the machine."""
    for version in FAMILIES:
        # ``/proc/net/ipv6_route`` does not serve: it mixes the routes of all tables.
        with contextlib.suppress(OSError), Socket() as kernel:
            yield from listed(kernel, version)


def listed(kernel: Socket, version: int) -> Iterator[NextHop]:
    """Yield the next hops of the routes of one family, as :func:`next_hops`. Raises OSError."""
    for message in kernel.dump(RTM_GETROUTE, RTMSG.pack(RouteHeader(FAMILIES[version]))):
        header = RTMSG.read(message.body)
        unicast = (header.source_length, header.kind) == (0, RTN_UNICAST)
        if unicast and header.protocol != ids.PROTOCOL:
            yield from _of_route(version, header.length, RTMSG.attributes(message.body))


def lookup(kernel: Socket, destination: str, out_index: int = 0) -> dict[int, bytes]:
    """Return the attributes (``RTA_…``) of the route that this node's packets to an address take.

    ``out_index``: number of the interface that they leave by; 0: any. Raises OSError if there is no route.
    """
    family = FAMILIES[6 if ":" in destination else 4]
    raw = socket.inet_pton(family, destination)
    body = RTMSG.pack(RouteHeader(family, 8 * len(raw)), attribute(RTA_DST, raw))
    if out_index:
        body += attribute(RTA_OIF, struct.pack("=i", out_index))
    return RTMSG.attributes(kernel.request(RTM_GETROUTE, 0, body))


def lookup_forwarded(
    kernel: Socket, destination: str, source: str, in_index: int, mark: int
) -> dict[int, bytes]:
    """Return the attributes of the route of a packet with this mark that comes by the interface with this number.

    Raises OSError if there is no route, or if the kernel would refuse the packet from that interface.
    """
    family = FAMILIES[6 if ":" in destination else 4]
    to, by = socket.inet_pton(family, destination), socket.inet_pton(family, source)
    body = RTMSG.pack(
        RouteHeader(family, 8 * len(to), 8 * len(by)),
        attribute(RTA_DST, to),
        attribute(RTA_SRC, by),
        attribute(RTA_IIF, struct.pack("=i", in_index)),
        attribute(RTA_MARK, struct.pack("=I", mark)),
    )
    return RTMSG.attributes(kernel.request(RTM_GETROUTE, 0, body))


def _of_route(version: int, length: int, found: Mapping[int, bytes]) -> Iterator[NextHop]:
    destination = found.get(RTA_DST, b"")
    prefix = int.from_bytes(destination, "big") >> max(8 * len(destination) - length, 0)
    metric, table = integer(found.get(RTA_PRIORITY, b"")), integer(found.get(RTA_TABLE, b""))
    for place, (index, gateway) in enumerate(_hops(found)):
        with contextlib.suppress(OSError):
            name, router = socket.if_indextoname(index), messages.address(gateway)
            yield NextHop(version, table == RT_TABLE_MAIN, metric, place, name, router, length, prefix)


def _hops(found: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield for each next hop the number of its interface and the bytes of its router's address; empty: no router."""
    if RTA_OIF in found:
        yield integer(found[RTA_OIF]), found.get(RTA_GATEWAY, b"")
    hops = found.get(RTA_MULTIPATH, b"")
    while len(hops) >= RTNEXTHOP.size:
        header = RTNEXTHOP.read(hops)
        yield header.interface, RTNEXTHOP.attributes(hops[: header.length]).get(RTA_GATEWAY, b"")
        # A next hop is aligned to four bytes, and never shorter than its header.
        hops = hops[max(RTNEXTHOP.size, -(-header.length // 4) * 4) :]
