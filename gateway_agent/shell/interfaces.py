"""What the kernel says of the node's interfaces, where its default routes lead, and whether it forwards."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil

from cni.kernel import addresses, rtnetlink

from ..core.readiness import InterfaceFacts

# linux/route.h, linux/rtnetlink.h
RTF_UP = 0x0001
RTF_REJECT = 0x0200
RTM_GETROUTE = 26
RTN_UNICAST = 1
RT_TABLE_MAIN = 254
RTA_OIF = 4
RTA_PRIORITY = 6
RTA_MULTIPATH = 9
RTMSG = struct.Struct("=BBBBBBBBI")
"""Family, destination's length, source's length, TOS, table, protocol, scope, type, flags."""
FAMILIES = (socket.AF_INET, socket.AF_INET6)


def read(virtual: Collection[str], without: Collection[str] = ()) -> dict[str, InterfaceFacts]:
    """Facts of every interface, by name; not of those in ``without``: a node may have hundreds of pods.

    ``virtual``: the addresses of all gateways. On a master they stand as /32 or /128 and are nobody's own: the kernel
    lists them *before* the primary address, because their scope is narrower.
    """
    hosts = {f"{address}/{128 if ':' in address else 32}" for address in virtual}
    found: dict[str, list[str]] = {}
    for label, entries in psutil.net_if_addrs().items():
        # An IPv4 address with a label of its own is listed under that: eth1:0.
        own = found.setdefault(label.partition(":")[0], [])
        own += [_written(entry.address, entry.netmask) for entry in entries if entry.family in FAMILIES]
    defaults = {4: _default_route(), 6: _default_route6()}
    taken = addresses.foreign(virtual) if virtual else {}
    forwarding6 = _sysctl("ipv6/conf/all/forwarding") == "1"
    source_check = int(_sysctl("ipv4/conf/all/rp_filter") or 0)
    facts = {}
    for name, stats in psutil.net_if_stats().items():
        if name in without:
            continue
        flags = stats.flags.split(",")
        facts[name] = InterfaceFacts(
            up="up" in flags,
            carrier="up" in flags and "running" in flags,
            mtu=stats.mtu,
            addresses=tuple(address for address in found.get(name, ()) if address not in hosts),
            forwarding=_sysctl(f"ipv4/conf/{name}/forwarding") == "1",
            forwarding6=forwarding6,
            source_check=source_check,
            default_route=frozenset(family for family, leads_by in defaults.items() if leads_by == name),
            foreign=frozenset(address for address, interface in taken.items() if interface == name),
        )
    return facts


def _written(address: str, netmask: str | None) -> str:
    """With its prefix length; without the zone of a link-local one."""
    address = address.partition("%")[0]
    whole = 128 if ":" in address else 32
    length = int(ipaddress.ip_address(netmask)).bit_count() if netmask else whole
    return f"{address}/{length}"


def _sysctl(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/net", path).read_text(encoding="ascii").strip()
    return ""


def _default_route() -> str:
    """The interface of the IPv4 default route with the lowest metric; empty where there is none."""
    best: list[tuple[int, str]] = []
    with contextlib.suppress(OSError), Path("/proc/net/route").open(encoding="ascii") as table:
        next(table, "")
        for line in table:
            name, destination, _, flags, _, _, metric, mask = line.split()[:8]
            if destination == mask == "00000000" and int(flags, 16) & (RTF_UP | RTF_REJECT) == RTF_UP:
                best.append((int(metric), name))
    return min(best)[1] if best else ""


def _default_route6() -> str:
    """The same for IPv6. ``/proc/net/ipv6_route`` does not serve: it mixes the routes of all tables."""
    best: list[tuple[int, str]] = []
    with contextlib.suppress(OSError), rtnetlink.Socket() as kernel:
        for _, body in kernel.dump(RTM_GETROUTE, RTMSG.pack(socket.AF_INET6, *[0] * 8)):
            best += _default6(body)
    return min(best)[1] if best else ""


def _default6(body: bytes) -> Iterator[tuple[int, str]]:
    """Metric and interface of the route, where it is a default route of the main table."""
    family, length, source, _, table, _, _, kind, _ = RTMSG.unpack_from(body)
    if (family, length, source, table, kind) != (socket.AF_INET6, 0, 0, RT_TABLE_MAIN, RTN_UNICAST):
        return
    found = rtnetlink.attributes(body[RTMSG.size :])
    (metric,) = struct.unpack("=I", found.get(RTA_PRIORITY, bytes(4)))
    # Of a multipath route the first hop; its index stands behind length, flags and weight.
    hop = found.get(RTA_OIF) or found.get(RTA_MULTIPATH, b"")[4:8]
    with contextlib.suppress(OSError, struct.error):
        yield metric, socket.if_indextoname(struct.unpack("=i", hop)[0])
