"""The guard of other programs' overlays, as nftables rules. Pure.

VXLAN, Geneve, GRE and IP in IP have no authentication: a node takes such packets from everybody, and what is inside
leaves by that node. A selected pod that sends them to a node would pass its gateway. So

* no selected pod sends them to a node: to an address that is reserved (:mod:`cni.datapath.source_guard`), or to any
  address that this node takes in itself. This is checked before connection tracking, and again behind destination NAT;
* a node takes them neither out of an overlay or tunnel, nor at an address that only its pods need (that of their
  bridge): another node does not know these addresses, so there the receiver decides.

As in :mod:`cni.datapath.nft_blocks`, no lookup lets a packet out by finding nothing.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from functools import lru_cache

from ..plan import Plan
from .nft_blocks import KEYWORDS, Marks, chain, interface, mapping, not_to
from .steering import INTO_OVERLAY_RULE, gaps

WELL_KNOWN_PORTS = (4789, 6081, 8472)
"""UDP ports of VXLAN and Geneve (IANA), and Linux's own of VXLAN, which flannel and Cilium use. Those of devices on
this node are in the plan."""
PROTOCOLS = (4, 41, 47, 137)
"""IPv4, IPv6, GRE and MPLS in IP (IANA, protocol numbers)."""
OVERLAY_KINDS = (
    "vxlan",
    "geneve",
    "ipip",
    "sit",
    "ip6tnl",
    "gre",
    "gretap",
    "ip6gre",
    "ip6gretap",
)
"""Kinds of interfaces that lead to other nodes. They take packets from everybody, pods of this node among them."""
RECEIVE_RULE = "meta l4proto != tcp jump overlay_input"
"""Rule for a packet that is delivered to this node itself."""


def chains(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the chains and maps of the guard."""
    yield chain("overlay_drop", ["counter drop"])
    maps = [(version, *_nodes(plan.reserved_sources, version)) for version in KEYWORDS]
    yield from (block for _, _, block in maps if block)
    # A packet to a multicast or broadcast address is taken in by this node, too.
    destination = ["fib daddr type != unicast goto overlay_drop"]
    for version, name, _ in maps:
        if name:
            destination.append(f"{KEYWORDS[version]} daddr vmap @{name}")
            destination.append(f"meta nfproto ipv{version} counter drop")
    yield chain("overlay_destination", destination)
    yield chain("unsteered_pod", [INTO_OVERLAY_RULE, "goto unsteered"])
    yield chain("into_overlay", _encapsulated(plan, "overlay_destination"))
    yield chain("overlay_target", _target(plan))
    yield chain("overlay_received", _received(plan, marks))
    yield chain("overlay_input", _encapsulated(plan, "overlay_received"))


def no_overlay(plan: Plan) -> str:
    """Return the expression for a packet that no overlay device takes in, by one rule and without a set."""
    protocols = " ".join(f"meta l4proto != {protocol}" for protocol in PROTOCOLS)
    return f"{protocols} {not_to(_ports(plan))}"


def no_overlay_of(plan: Plan) -> tuple[str, str]:
    """Return the expressions for a UDP and a TCP packet that no overlay device takes in: fewer comparisons."""
    return f"meta l4proto udp {not_to(_ports(plan))}", "meta l4proto tcp"


def _ports(plan: Plan) -> list[int]:
    return sorted({*WELL_KNOWN_PORTS, *plan.overlay_ports} - {plan.port})


def _encapsulated(plan: Plan, target: str) -> Iterator[str]:
    """Yield the rules that lead to ``target`` what an overlay device of a node may take in."""
    # The tunnels' own port has its own guard. Its packets pass no other comparison here.
    yield f"udp dport {plan.port} return"
    for port in _ports(plan):
        yield f"udp dport {port} goto {target}"
    for protocol in PROTOCOLS:
        yield f"meta l4proto {protocol} goto {target}"


def _received(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the rules for such a packet to this node: no node sends it through an overlay or as a selected pod."""
    yield 'iifname "lo" return'
    yield f"meta mark and {marks.mask} != 0 goto overlay_drop"
    yield from (f"iifname {name} goto overlay_target" for each in plan.uplinks if (name := interface(each)))
    yield from (f'meta iifkind "{kind}" goto overlay_drop' for kind in OVERLAY_KINDS)
    yield "goto overlay_target"


def _target(plan: Plan) -> Iterator[str]:
    """Yield the rules for its destination: an address of the interface that it came by, or one of other nodes' use."""
    yield "fib daddr . iif type local return"
    yield "fib daddr type != local return"
    for address in plan.overlay_addresses:
        yield f"{KEYWORDS[ipaddress.ip_address(address).version]} daddr {ipaddress.ip_address(address)} return"
    # An older agent's plan does not say which addresses these are.
    if plan.overlay_addresses:
        yield "goto overlay_drop"


# Cached: among them are all addresses of nodes, and an edit of a policy changes none.
@lru_cache(maxsize=8)
def _nodes(reserved: tuple[str, ...], version: int) -> tuple[str, str]:
    """Return name and text of the map of the reserved addresses of an IP version; empty texts if there are none."""
    networks = [each for each in map(ipaddress.ip_network, reserved) if each.version == version]
    if not networks:
        return "", ""
    elements = [f"{each.network_address} : goto overlay_drop" for each in networks]
    elements += [f"{first}-{last} : return" for first, last in gaps(networks)]
    name = f"overlay_nodes{version}_{hashlib.sha256(' '.join(elements).encode()).hexdigest()[:16]}"
    return name, mapping(name, f"ipv{version}_addr", elements, interval=True)
