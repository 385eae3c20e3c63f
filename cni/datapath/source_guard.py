"""The guard against packets whose source address is not their sender's, as nftables rules. Pure.

A pod with raw sockets can write any source into its packets. Three checks prevent that such packets bypass a gateway:

- A tagged pod's packets must have a source that routes back by the interface they came from, and no source route. The
  check comes before connection tracking, so that no forged packet begins a connection.
- If the source of a new connection does not route back by the interface of its first packet, the connection gets a
  mark, and a tagged pod may not answer in it. Uplinks are excepted: their routes may be asymmetric.
- No pod's packet is forwarded with a virtual address or with another node's address as its source.

Routes of the node decide. A pod that routes for others, as a VPN does, needs a route of its node to those others. The
address of a gateway is an exception: a route to a pod that has it as its own address does not count.

As in :mod:`cni.datapath.nft_blocks`, no lookup lets a packet out by finding nothing.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from ..plan import Plan
from . import overlay_guard
from .nft_blocks import KEYWORDS, TAGGED, TUNNELS, Marks, chain, interface, mapping
from .steering import BRIDGE_KINDS, INTO_OVERLAY_RULE, Network, gaps, widest

ROUTES_BACK = "fib saddr . iif oif exists"
AUTHENTIC_KIND = "wireguard"
"""Kind of interface that accepts packets of other nodes only. Those nodes have checked the packets."""


def arrival_rules(marks: Marks) -> Iterator[str]:
    """Yield the rules for arriving packets, before connection tracking."""
    yield tagged_rule()
    yield f"meta mark and {marks.mask} != 0 goto marked_source"


def tagged_rule(others: str = "") -> str:
    """Return the rule for a selected pod's packets. ``others``: the expression for those that no other guard needs."""
    return " ".join(filter(None, (TAGGED, others, "goto own_source")))


def forward_rules(plan: Plan) -> Iterator[str]:
    """Yield the rules for forwarded packets that are not out of a tunnel.

    The widest ranges that hold no reserved address come first: a comparison costs far less than the lookup.
    """
    if plan.reserved_sources:
        for version, source in free_sources(plan):
            yield f"{source or f'meta nfproto ipv{version}'} goto forwarded"
    if plan.reserved_sources:
        yield "jump pod_source"


def free_sources(plan: Plan) -> Iterator[tuple[int, str]]:
    """Yield IP versions, each with the expression for a source in the widest ranges without a reserved address.

    Without a reserved address of a version its expression is empty.
    """
    for version, keyword in KEYWORDS.items():
        reserved = _reserved(plan.reserved_sources, plan.egress_sources, version)
        if reserved.free or not reserved.name:
            yield version, " ".join(f"{keyword} saddr {each}" for each in reserved.free)


def chains(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the chains and maps of the ``inet`` table that look at sources."""
    # Packets by these interfaces cannot come from a pod.
    others = [f"iifname {name} return" for uplink in plan.uplinks if (name := interface(uplink))]
    yield chain("marked_source", [f'meta iifkind "{kind}" goto own_source' for kind in BRIDGE_KINDS])
    yield chain("own_source", _own_source(plan))
    # A connection that begins comes here from the end of the chain ``unsteered``.
    unrouted = 'iifname != "lo" fib saddr . iif oif missing goto unverified'
    yield chain("new_connection", [*others, f"iifname {TUNNELS} return", unrouted])
    # The mark of a connection that came out of a tunnel, without the number that says which tunnel.
    yield chain("unverified", [marks.put("ct", marks.tunneled)])
    yield chain("unverified_reply", _unverified_reply(marks))
    yield from _reserved_chains(plan, others)


def _own_source(plan: Plan) -> Iterator[str]:
    """Yield the rules for a tagged pod's packet: its source must route back by the interface of the packet."""
    # Most packets: IPv4 without options, for no overlay.
    for others in overlay_guard.no_overlay_of(plan):
        yield f"ip hdrlength 5 {others} {ROUTES_BACK} accept"
    # The kernel replaces the destination by the next one of a source route only after prerouting.
    for named in ("ip option lsrr", "ip option ssrr", "exthdr rt"):
        yield f"{named} exists counter drop"
    yield INTO_OVERLAY_RULE
    yield f"{ROUTES_BACK} accept"
    # Sources that no route leads to; the kernel forwards none of them. They are of DHCP; of duplicate address detection
    # and multicast listener reports; of neighbour discovery.
    yield "ip saddr 0.0.0.0 accept"
    yield "ip6 saddr :: accept"
    yield "ip6 saddr fe80::/10 accept"
    yield "counter drop"


def _unverified_reply(marks: Marks) -> Iterator[str]:
    """Yield the rules for an answer in a connection whose source did not route back to the interface of its begin."""
    bridged = [f'meta iifkind "{kind}" meta mark and {marks.mask} != 0' for kind in BRIDGE_KINDS]
    yield from (f"{of} counter drop" for of in (TAGGED, *bridged))
    yield "goto accept_reply"


class _Reserved(NamedTuple):
    """The reserved addresses of one IP version, as the rules look them up."""

    free: tuple[str, ...]
    """The widest ranges without such an address: a range, a hole in it, or both."""
    name: str
    """Name of the map; empty: no address is of this version."""
    block: str
    """The map as text."""


# Cached: among them are all addresses of nodes, and an edit of a policy changes none.
@lru_cache(maxsize=8)
def _reserved(sources: tuple[str, ...], egress: tuple[str, ...], version: int) -> _Reserved:
    """Return what the rules need. ``sources``: the reserved addresses of both versions; ``egress``: the gateways'."""
    networks = [each for each in map(ipaddress.ip_network, sources) if each.version == version]
    if not networks:
        return _Reserved((), "", "")
    elements = list(_elements(networks, frozenset(map(ipaddress.ip_network, egress))))
    name = f"reserved{version}_{hashlib.sha256(' '.join(elements).encode()).hexdigest()[:16]}"
    return _Reserved(
        tuple(widest(networks)), name, mapping(name, f"ipv{version}_addr", elements, interval=True)
    )


def _reserved_chains(plan: Plan, others: list[str]) -> Iterator[str]:
    """Yield the chains that drop packets of pods with the source of a gateway or of a node."""
    rules = []
    for version, keyword in KEYWORDS.items():
        if (found := _reserved(plan.reserved_sources, plan.egress_sources, version)).name:
            yield found.block
            rules += [f"{keyword} saddr vmap @{found.name}", f"meta nfproto ipv{version} counter drop"]
    if rules:
        yield chain("pod_source", [*others, *rules])
        yield from _source_chains(plan)


def _source_chains(plan: Plan) -> Iterator[str]:
    """Yield the chains for packets with a reserved source: of a node, and of a gateway."""
    overlays = [f'meta iifkind "{kind}" return' for kind in overlay_guard.OVERLAY_KINDS]
    authentic = f'meta iifkind "{AUTHENTIC_KIND}" return'
    links = [f"iifname {name} {ROUTES_BACK} return" for link in plan.node_links if (name := interface(link))]
    # A node may be a virtual machine behind a bridge of this one, an egress node behind one that leads to nodes only.
    for kind, exceptions in (("source", [f"{ROUTES_BACK} return"]), ("egress", links)):
        last = f"foreign_{kind}"
        # What another node sends to a pod here comes by an overlay, and does not leave by an uplink again.
        out = [f"oifname {name} goto {last}" for each in plan.uplinks if (name := interface(each))]
        yield chain(last, [*exceptions, "counter drop"])
        yield chain(f"reserved_{kind}", [authentic, *out, *overlays, f"goto {last}"])


def _elements(addresses: Sequence[Network], egress: frozenset[Network]) -> Iterator[str]:
    for address in addresses:
        kind = "egress" if address in egress else "source"
        yield f"{address.network_address} : goto reserved_{kind}"
    for first, last in gaps(addresses):
        yield f"{first}-{last} : return"
