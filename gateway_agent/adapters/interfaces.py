"""What the kernel says of the node's interfaces, where its default routes lead, and whether it forwards."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from cni.kernel import ids
from cni.kernel.netlink import addresses, rtnetlink

from ..policy.readiness import InterfaceFacts

# linux/rtnetlink.h
RTM_GETROUTE = 26
RTN_UNICAST = 1
RT_TABLE_MAIN = 254
RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
RTA_PREFSRC = 7
RTA_PRIORITY = 6
RTA_MULTIPATH = 9
RTA_TABLE = 15
RTMSG = struct.Struct("=BBBBBBBBI")
"""Family, destination's length, source's length, TOS, table, protocol, scope, type, flags."""
OUTSIDE = "203.0.113.1"
"""An address of nobody (RFC 5737): what the kernel says of it holds for all that no nearer route leads to."""
RTNEXTHOP = struct.Struct("=HBBi")
"""Length, flags, hops, index; its attributes follow."""
FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}


@dataclass(frozen=True, order=True)
class Leading:
    """One next hop of a route."""

    version: int
    """4 or 6."""
    main: bool
    """It is in the main table."""
    metric: int
    """The lowest one counts."""
    place: int
    """Among the route's next hops: the first one counts."""
    interface: str
    gateway: str
    """The router's address; empty if the route is to what is on the link."""
    length: int
    """Length of the route's prefix in bits; 0 for a default route."""
    prefix: int
    """The bits of the prefix, and no others."""


def read(
    virtual: Collection[str], without: Collection[str] = (), nodes: Iterable[str] = ()
) -> dict[str, InterfaceFacts]:
    """Facts of every interface, by name; not of those in ``without``: a node may have hundreds of pods.

    ``virtual``: the addresses of all gateways. On a master they stand as /32 or /128 and are nobody's own. Of several
    IPv4 addresses of an interface the one that the kernel would send by comes first: another program's address
    (kube-vip, keepalived) may be listed before it. ``nodes``: the addresses of the other nodes.
    """
    hosts = {f"{address}/{128 if ':' in address else 32}" for address in virtual}
    found: dict[str, list[str]] = {}
    for label, entries in psutil.net_if_addrs().items():
        # An IPv4 address with a label of its own is listed under that: eth1:0.
        own = found.setdefault(label.partition(":")[0], [])
        own += [_written(entry.address, entry.netmask) for entry in entries if entry.family in FAMILIES]
    routes = tuple(_routes())
    defaults = tuple(hop for hop in routes if not hop.length)
    to_nodes = _nearest(routes, nodes)
    leading = {
        v: min((d for d in defaults if d.main and d.version == v), default=None) for v in FAMILIES.values()
    }
    uplinks = {default.interface for default in defaults}
    bearing: dict[str, set[str]] = {}
    for name in without:
        bearing.setdefault(_master(name), set()).add(name)
    # A link-local source needs no route.
    routed = {
        hop.interface for hop in routes if (hop.version, hop.length, hop.prefix) != (6, 64, 0xFE80 << 48)
    }
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
            addresses=_preferred_first(name, [a for a in found.get(name, ()) if a not in hosts]),
            forwarding=_sysctl(f"ipv4/conf/{name}/forwarding") == "1",
            forwarding6=forwarding6,
            source_check=source_check,
            default_route=frozenset(
                v for v, default in leading.items() if default and default.interface == name
            ),
            uplink=name in uplinks,
            bears_pods=name in bearing,
            bridged_only=frozenset(
                bearing[name] if name in bearing and name not in routed and _hooked(name) else ()
            ),
            foreign=frozenset(address for address, interface in taken.items() if interface == name),
            arp_ignore=max(int(_sysctl(f"ipv4/conf/{place}/arp_ignore") or 0) for place in ("all", name)),
            leads_to_nodes=name in to_nodes,
            arp_filtered=_arp_filtered(name, found.get(name, ())),
            ipv6=_sysctl(f"ipv6/conf/{name}/disable_ipv6") == "0",
            next_hops=frozenset(hop.gateway for hop in routes if hop.gateway and hop.interface == name),
        )
    return facts


def leaving(destinations: Iterable[str]) -> frozenset[str]:
    """Return the interfaces by which packets of this node to these addresses leave; no route, no interface."""
    found = set()
    with contextlib.suppress(OSError), rtnetlink.Socket() as kernel:
        for address in destinations:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            raw = socket.inet_pton(family, address)
            head = RTMSG.pack(family, 8 * len(raw), 0, 0, 0, 0, 0, 0, 0)
            with contextlib.suppress(OSError, struct.error):
                answer = kernel.request(RTM_GETROUTE, 0, head + rtnetlink.attribute(RTA_DST, raw))
                (index,) = struct.unpack("=i", rtnetlink.attributes(answer[RTMSG.size :]).get(RTA_OIF, b""))
                found.add(socket.if_indextoname(index))
    return frozenset(found)


def _arp_filtered(name: str, own: Iterable[str]) -> bool:
    """Return True if ``arp_filter`` keeps the kernel from answering ARP requests by an interface.

    The kernel answers by the interface that its route to the asker leads out by. For the askers of a LAN stands the
    first address of each subnet that is not the node's own.
    """
    if not any(_sysctl(f"ipv4/conf/{place}/arp_filter") not in ("", "0") for place in ("all", name)):
        return False
    mine = [ipaddress.IPv4Interface(address) for address in own if ":" not in address]
    taken = {each.ip for each in mine}
    hosts = ((host for host in each.network.hosts() if host not in taken) for each in mine)
    return not any(name in leaving([str(host)]) for others in hosts if (host := next(others, None)))


def is_local(address: str) -> bool:
    """Return whether an interface of this machine has the address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _hooked(bridge: str) -> bool:
    """Return whether this is a bridge of the kernel whose frames the hooks of IP see."""
    with contextlib.suppress(OSError):
        own = Path("/sys/class/net", bridge, "bridge", "nf_call_iptables").read_text(encoding="ascii").strip()
        return "1" in (own, _sysctl("bridge/bridge-nf-call-iptables"))
    return False


def _master(interface: str) -> str:
    """Return the bridge that an interface is a port of; empty if there is none."""
    with contextlib.suppress(OSError):
        return Path("/sys/class/net", interface, "master").readlink().name
    return ""


def _preferred_first(interface: str, own: list[str]) -> tuple[str, ...]:
    """Return the addresses with that one first which the kernel takes as the source of what leaves by ``interface``."""
    if sum(":" not in address for address in own) > 1:
        source = _source(interface)
        own.sort(key=lambda address: address.partition("/")[0] != source)
    return tuple(own)


def _source(interface: str) -> str:
    """Ask the kernel for the IPv4 source of packets that leave by ``interface`` for the outside; empty if none."""
    with contextlib.suppress(OSError, struct.error), rtnetlink.Socket() as kernel:
        index = struct.pack("=i", socket.if_nametoindex(interface))
        head = RTMSG.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
        destination = rtnetlink.attribute(RTA_DST, socket.inet_aton(OUTSIDE))
        answer = kernel.request(RTM_GETROUTE, 0, head + destination + rtnetlink.attribute(RTA_OIF, index))
        source = rtnetlink.attributes(answer[RTMSG.size :]).get(RTA_PREFSRC, b"")
        return socket.inet_ntop(socket.AF_INET, source) if len(source) == 4 else ""
    return ""


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


def _routes() -> Iterator[Leading]:
    """Yield the next hops of every unicast route of the machine that is not ours, of the families that it has."""
    for family, version in FAMILIES.items():
        # ``/proc/net/ipv6_route`` does not serve: it mixes the routes of all tables.
        with contextlib.suppress(OSError), rtnetlink.Socket() as kernel:
            for _, body in kernel.dump(RTM_GETROUTE, RTMSG.pack(family, *[0] * 8)):
                length, source, _, _, protocol, _, kind, _ = RTMSG.unpack_from(body)[1:]
                if (source, kind) == (0, RTN_UNICAST) and protocol != ids.PROTOCOL:
                    yield from _leading(version, length, rtnetlink.attributes(body[RTMSG.size :]))


def _nearest(routes: Iterable[Leading], addresses: Iterable[str]) -> set[str]:
    """Return the interfaces that the nearest routes to these addresses lead by, whatever their metrics and tables."""
    by: dict[tuple[int, int], dict[int, set[str]]] = {}
    for hop in routes:
        by.setdefault((hop.version, hop.length), {}).setdefault(hop.prefix, set()).add(hop.interface)
    found: set[str] = set()
    for address in map(ipaddress.ip_address, addresses):
        lengths = sorted((length for version, length in by if version == address.version), reverse=True)
        known = (by[address.version, n].get(int(address) >> address.max_prefixlen - n) for n in lengths)
        found |= next((interfaces for interfaces in known if interfaces), set())
    return found


def _leading(version: int, length: int, found: Mapping[int, bytes]) -> Iterator[Leading]:
    """Yield each next hop of a route."""
    destination = found.get(RTA_DST, b"")
    prefix = int.from_bytes(destination, "big") >> max(8 * len(destination) - length, 0)
    (metric,) = struct.unpack("=I", found.get(RTA_PRIORITY, bytes(4)))
    (table,) = struct.unpack("=I", found.get(RTA_TABLE, bytes(4)))
    for place, (index, gateway) in enumerate(_hops(found)):
        with contextlib.suppress(OSError):
            name = socket.if_indextoname(index)
            yield Leading(
                version, table == RT_TABLE_MAIN, metric, place, name, _text(gateway), length, prefix
            )


def _text(raw: bytes) -> str:
    """Return the address with these bytes; empty if they are none."""
    family = {4: socket.AF_INET, 16: socket.AF_INET6}.get(len(raw))
    return socket.inet_ntop(family, raw) if family else ""


def _hops(found: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield of each next hop the index of its interface and its router's address, which may be empty."""
    if RTA_OIF in found:
        yield *struct.unpack("=i", found[RTA_OIF]), found.get(RTA_GATEWAY, b"")
    hops = found.get(RTA_MULTIPATH, b"")
    while len(hops) >= RTNEXTHOP.size:
        length, _, _, index = RTNEXTHOP.unpack_from(hops)
        yield index, rtnetlink.attributes(hops[RTNEXTHOP.size : length]).get(RTA_GATEWAY, b"")
        # Aligned to four bytes, and never shorter than its head.
        hops = hops[max(RTNEXTHOP.size, -(-length // 4) * 4) :]
