"""Packets whose source address is not their sender's, as nftables rules. Pure.

A pod with raw sockets writes any source into its packets. Three checks keep that from leading past a gateway:

- A tagged pod's packets have a source that routes back by the interface they came from. This is checked before
  connection tracking, so that no forged packet begins a connection.
- A connection that began by an interface to which its source does not route back gets a mark, and gives a tagged pod
  no right to answer. Uplinks are excepted: their routes may be asymmetric.
- No pod's packet is forwarded with a virtual address or with another node's address as its source.

Routes of the node decide. A pod that routes for others, as a VPN does, needs a route of its node to those others.

As in :mod:`cni.ruleset`, no lookup lets a packet out by finding nothing.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Sequence

from .plan import Plan
from .ruleset import KEYWORDS, TAGGED, TUNNELS, Marks, chain, interface, mapping
from .steering import gaps

ROUTES_BACK = "fib saddr . iif oif exists"
BRIDGE_KINDS = ("bridge", "vlan")
"""Kinds of interfaces behind which the mark is from our bridge table, and the interface group is not the port's."""
OVERLAY_KINDS = ("vxlan", "geneve", "ipip", "sit", "ip6tnl", "gre", "gretap", "ip6gre", "ip6gretap", "wireguard")
"""Kinds of interfaces that lead to other nodes. What comes from there was checked by the node that it comes from."""


def chains(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the chains and maps of the ``inet`` table that look at sources."""
    marked = f"meta mark and {marks.mask} != 0"
    # What cannot come from a pod passes few rules.
    others = [f"iifname {name} accept" for uplink in plan.uplinks if (name := interface(uplink))]
    others.append(f"iifname {TUNNELS} accept")
    sources = [f"{TAGGED} goto own_source", f"{marked} goto marked_source"]
    yield chain("sources", sources, "filter hook prerouting priority raw")
    yield chain("marked_source", [f'meta iifkind "{kind}" goto own_source' for kind in BRIDGE_KINDS])
    yield chain("own_source", _own_source())
    questions = [*others, 'iifname "lo" accept', *_questions(marks)]
    yield chain("questions", questions, "filter hook prerouting priority mangle")
    # The mark of a connection that came out of a tunnel, without the number that says which tunnel.
    yield chain("unproven", [marks.put("ct", marks.tunneled)])
    bridged = [f'meta iifkind "{kind}" {marked}' for kind in BRIDGE_KINDS]
    yield chain("unproven_answer", [f"{of} counter drop" for of in (TAGGED, *bridged)])
    yield from _reserved(plan, others)


def _own_source() -> Iterator[str]:
    """A tagged pod's packet. The kernel forwards nothing with the sources that no route need lead to."""
    yield f"{ROUTES_BACK} accept"
    # DHCP; duplicate address detection and multicast listener reports; neighbour discovery.
    yield "ip saddr 0.0.0.0 accept"
    yield "ip6 saddr :: accept"
    yield "ip6 saddr fe80::/10 accept"
    yield "counter drop"


def _questions(marks: Marks) -> Iterator[str]:
    """Whether a connection began where its source is, and what becomes of its answers if it did not."""
    yield "ct state new fib saddr . iif oif missing goto unproven"
    yield f"ct direction reply ct mark and {marks.mask} == {marks.tunneled} goto unproven_answer"


def _reserved(plan: Plan, others: list[str]) -> Iterator[str]:
    """Nothing forwarded from a pod has a source that stands for a gateway or for a node."""
    addresses = [ipaddress.ip_network(address) for address in plan.reserved_sources]
    rules = []
    for version, keyword in KEYWORDS.items():
        of_version = [address for address in addresses if address.version == version]
        if of_version:
            elements = list(_elements(of_version))
            name = f"reserved{version}_{hashlib.sha256(' '.join(elements).encode()).hexdigest()[:16]}"
            yield mapping(name, f"ipv{version}_addr", elements, interval=True)
            rules += [f"{keyword} saddr vmap @{name}", f"meta nfproto ipv{version} counter drop"]
    if rules:
        yield chain("pod_sources", [*others, *rules], "filter hook forward priority filter - 30")
        overlays = [f'meta iifkind "{kind}" accept' for kind in OVERLAY_KINDS]
        # A node may be a virtual machine behind a bridge of this one.
        yield chain("reserved_source", [*overlays, f"{ROUTES_BACK} accept", "counter drop"])


def _elements(addresses: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> Iterator[str]:
    for address in addresses:
        yield f"{address.network_address} : goto reserved_source"
    for between in gaps(addresses):
        yield f"{between} : accept"
