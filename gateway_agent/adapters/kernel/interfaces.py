"""Read the state of the node's interfaces from the kernel: addresses, routes, forwarding and other settings."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import psutil

from cni.kernel import ids
from cni.kernel.netlink import addresses, routes
from cni.kernel.netlink.constants import FAMILIES, RTA_OIF, RTA_PREFSRC
from cni.kernel.netlink.messages import address as address_of
from cni.kernel.netlink.messages import integer
from cni.kernel.netlink.netlink_socket import Socket
from cni.kernel.netlink.routes import NextHop

from ...policy.egress_node.readiness import InterfaceFacts
from . import overlay_devices

MAX_KEPT_HOPS = 1_000
"""Largest number of next hops for which the nearest interfaces are cached until a route changes."""
MAX_NODES = 1 << 14
"""Largest number of node addresses that are cached as numbers."""
_UNUSABLE = 0x44
"""``IFA_F_TENTATIVE``, which a duplicate address keeps, and ``IFA_F_OPTIMISTIC``."""
OUTSIDE = "203.0.113.1"
"""A documentation address (RFC 5737), which represents every address without a more specific route."""


def read(
    virtual: Collection[str], without: Collection[str] = (), nodes: Iterable[str] = ()
) -> dict[str, InterfaceFacts]:
    """Return the facts of every interface but our tunnels, by name: a node may have a thousand of these.

    ``virtual``: virtual addresses of all gateways. A master has them as /32 or /128, and they are left out of the
    facts. ``without``: interfaces to leave out, because a node may have hundreds of pods. ``nodes``: addresses of the
    other nodes. Of several IPv4 addresses of an interface, the one that the kernel uses as source comes first: another
    program's address (kube-vip, keepalived) may be listed before it.
    """
    own = _addresses()
    node = _NodeWide(virtual, without, nodes)
    found = {
        name: stats
        for name, stats in psutil.net_if_stats().items()
        if name not in without and not name.startswith(ids.DEVICE_PREFIX)
    }
    overlays = overlay_devices.of(found)
    facts = {
        name: _facts(name, stats.flags.split(","), stats.mtu, own.get(name, []), node)
        for name, stats in found.items()
    }
    return facts | {
        name: replace(facts[name], overlay_port=overlay.port, overlay_address=overlay.address)
        for name, overlay in overlays.items()
    }


def _addresses() -> dict[str, list[str]]:
    """Return all addresses of this node with prefix lengths, by interface; those of our tunnels are left out."""
    found: dict[str, list[str]] = {}
    for label, entries in psutil.net_if_addrs().items():
        if label.startswith(ids.DEVICE_PREFIX):
            continue
        # An IPv4 address with its own label is listed under that label: eth1:0.
        own = found.setdefault(label.partition(":")[0], [])
        own += [
            _written(entry.address, entry.netmask) for entry in entries if entry.family in FAMILIES.values()
        ]
    return found


class _NodeWide:
    """Routes, bridge ports and settings that the facts of several interfaces depend on, each read once."""

    def __init__(self, virtual: Collection[str], pods: Collection[str], nodes: Iterable[str]) -> None:
        """``pods``: host-side interfaces of pods. ``nodes``: addresses of the other nodes."""
        self.virtual = {f"{address}/{128 if ':' in address else 32}" for address in virtual}
        """Virtual addresses in the form in which a master has them."""
        self.hops = tuple(routes.next_hops())
        defaults = tuple(hop for hop in self.hops if not hop.length)
        self.uplinks = {default.interface for default in defaults}
        self.leads_to_nodes = _nearest(self.hops, tuple(nodes))
        self.foreign = addresses.foreign(virtual) if virtual else {}
        self.forwarding6 = sysctl("ipv6/conf/all/forwarding") == "1"
        self.link_local = _link_local()
        self.source_check = int(sysctl("ipv4/conf/all/rp_filter") or 0)
        self._leading = {
            v: min((d for d in defaults if d.main and d.version == v), default=None) for v in FAMILIES
        }
        # A link-local source needs no route.
        self._routed = {
            hop.interface
            for hop in self.hops
            if (hop.version, hop.length, hop.prefix) != (6, 64, 0xFE80 << 48)
        }
        self.ports: dict[str, set[str]] = {}
        """Host-side interfaces of pods by the bridge that they are ports of."""
        for name in pods:
            self.ports.setdefault(_master(name), set()).add(name)

    def default_routes(self, name: str) -> frozenset[int]:
        """Return the families whose default route uses the interface."""
        return frozenset(v for v, default in self._leading.items() if default and default.interface == name)

    def bridged_only(self, name: str) -> frozenset[str]:
        """Return the ports of a bridge that no route uses and whose frames pass the hooks of IP."""
        only = name in self.ports and name not in self._routed and _hooked(name)
        return frozenset(self.ports[name] if only else ())


def _facts(
    name: str, flags: Collection[str], mtu: int, own: Sequence[str], node: _NodeWide
) -> InterfaceFacts:
    """Return the facts of one interface. ``own``: its addresses, virtual ones among them."""
    return InterfaceFacts(
        up="up" in flags,
        carrier="up" in flags and "running" in flags,
        mtu=mtu,
        addresses=_preferred_first(name, [address for address in own if address not in node.virtual]),
        forwarding=sysctl(f"ipv4/conf/{name}/forwarding") == "1",
        forwarding6=node.forwarding6,
        source_check=node.source_check,
        rp_filter=max(node.source_check, int(sysctl(f"ipv4/conf/{name}/rp_filter") or 0)),
        src_valid_mark=any(sysctl(f"ipv4/conf/{each}/src_valid_mark") == "1" for each in ("all", name)),
        default_route=node.default_routes(name),
        uplink=name in node.uplinks,
        bears_pods=name in node.ports,
        bridged_only=node.bridged_only(name),
        foreign=frozenset(address for address, interface in node.foreign.items() if interface == name),
        arp_ignore=max(int(sysctl(f"ipv4/conf/{place}/arp_ignore") or 0) for place in ("all", name)),
        leads_to_nodes=name in node.leads_to_nodes,
        arp_filtered=_arp_filtered(name, own),
        ipv6=sysctl(f"ipv6/conf/{name}/disable_ipv6") == "0",
        asks6="noarp" in flags or name in node.link_local,
        next_hops=frozenset(hop.gateway for hop in node.hops if hop.gateway and hop.interface == name),
    )


def leaving(destinations: Iterable[str]) -> frozenset[str]:
    """Return the interfaces by which packets of this node to these addresses leave; an unroutable one adds none."""
    found = set()
    with contextlib.suppress(OSError), Socket() as kernel:
        for address in destinations:
            with contextlib.suppress(OSError):
                found.add(_leaving_by(kernel, address))
    return frozenset(found)


def _leaving_by(kernel: Socket, destination: str) -> str:
    """Return the interface of a route. Raises OSError if there is none."""
    return socket.if_indextoname(integer(routes.lookup(kernel, destination).get(RTA_OIF, b"")))


def _arp_filtered(name: str, own: Iterable[str]) -> bool:
    """Return True if ``arp_filter`` keeps the kernel from answering ARP requests on an interface.

    The kernel answers only on the interface of its route to the sender. The first address of each subnet that is not
    the node's own is checked in place of all senders.
    """
    if not any(sysctl(f"ipv4/conf/{place}/arp_filter") not in ("", "0") for place in ("all", name)):
        return False
    mine = [ipaddress.IPv4Interface(address) for address in own if ":" not in address]
    taken = {each.ip for each in mine}
    hosts = ((host for host in each.network.hosts() if host not in taken) for each in mine)
    return not any(name in leaving([str(host)]) for others in hosts if (host := next(others, None)))


def is_local(address: str) -> bool:
    """Return True if an interface of this machine has the address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _link_local() -> set[str]:
    """Return the interfaces with a link-local IPv6 address that the kernel sends by: neither tentative nor a duplicate.

    It asks for the neighbours of what it forwards by such an address only, and asks for none without one.
    """
    with contextlib.suppress(OSError):
        lines = Path("/proc/thread-self/net/if_inet6").read_text(encoding="ascii").splitlines()
        fields = [line.split() for line in lines]
        return {name for *_, scope, flags, name in fields if scope == "20" and not int(flags, 16) & _UNUSABLE}
    return set()


def _hooked(bridge: str) -> bool:
    """Return True if this is a bridge whose frames pass the hooks of IP (``bridge-nf-call-iptables``)."""
    with contextlib.suppress(OSError):
        own = Path("/sys/class/net", bridge, "bridge", "nf_call_iptables").read_text(encoding="ascii").strip()
        return "1" in (own, sysctl("bridge/bridge-nf-call-iptables"))
    return False


def _master(interface: str) -> str:
    """Return the bridge that an interface is a port of; empty if there is none."""
    with contextlib.suppress(OSError):
        return Path("/sys/class/net", interface, "master").readlink().name
    return ""


def _preferred_first(interface: str, own: list[str]) -> tuple[str, ...]:
    """Return the addresses, first the one that the kernel uses as source of packets that leave by ``interface``."""
    if sum(":" not in address for address in own) > 1:
        source = _source(interface)
        own.sort(key=lambda address: address.partition("/")[0] != source)
    return tuple(own)


def _source(interface: str) -> str:
    """Return the IPv4 source that the kernel uses for packets by ``interface`` to the outside; empty if none."""
    with contextlib.suppress(OSError), Socket() as kernel:
        found = routes.lookup(kernel, OUTSIDE, socket.if_nametoindex(interface))
        return address_of(found.get(RTA_PREFSRC, b""))
    return ""


def _written(address: str, netmask: str | None) -> str:
    """Return the address with its prefix length and without the zone of a link-local address."""
    address = address.partition("%")[0]
    whole = 128 if ":" in address else 32
    return f"{address}/{_length(netmask) if netmask else whole}"


@lru_cache(maxsize=256)
def _length(netmask: str) -> int:
    """Return the length of a prefix, in bits."""
    return int(ipaddress.ip_address(netmask)).bit_count()


def sysctl(path: str) -> str:
    """Return the value of a network setting, as ``ipv4/conf/all/rp_filter``; empty if there is none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/net", path).read_text(encoding="ascii").strip()
    return ""


def _nearest(hops: tuple[NextHop, ...], addresses: tuple[str, ...]) -> frozenset[str]:
    """Return the interfaces of the most specific routes to these addresses, regardless of metric and table."""
    # A full Internet table takes as long to compare as to search.
    return (_nearest_kept if len(hops) <= MAX_KEPT_HOPS else _found_nearest)(hops, addresses)


def _found_nearest(hops: tuple[NextHop, ...], addresses: tuple[str, ...]) -> frozenset[str]:
    by: dict[tuple[int, int], dict[int, set[str]]] = {}
    for hop in hops:
        by.setdefault((hop.version, hop.length), {}).setdefault(hop.prefix, set()).add(hop.interface)
    lengths = {
        version: sorted((length for known, length in by if known == version), reverse=True)
        for version in FAMILIES
    }
    found: set[str] = set()
    for version, number, width in map(_number, addresses):
        known = (by[version, n].get(number >> width - n) for n in lengths[version])
        found |= next((interfaces for interfaces in known if interfaces), set())
    return frozenset(found)


_nearest_kept = lru_cache(maxsize=2)(_found_nearest)


@lru_cache(maxsize=MAX_NODES)
def _number(address: str) -> tuple[int, int, int]:
    """Return IP version, number and number of bits of an address.

    Cached, because each round needs those of all nodes.
    """
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed), parsed.max_prefixlen
