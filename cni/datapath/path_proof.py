"""The rules for probes of a node's own path, as nftables rules. Pure.

An egress node sends itself a packet through the tunnel of an egress IP
(:mod:`gateway_agent.adapters.probes.path_probe`): the outer packet goes over the loopback interface, and the kernel
takes the inner one out of the tunnel as if a worker had sent it. The inner packet passes all hooks and programs that a
pod's packet passes. The last rule before the device logs and drops the packet, so no probe ever leaves the node, and no
connection stays.

A probe is identified by :data:`cni.kernel.ids.PROBE_NUMBERS`. A sender of the same numbers gains nothing: every such
packet is dropped.
"""

from __future__ import annotations

from ..kernel import ids

# Offsets in bits from the UDP header: 8 bytes, VXLAN's 8, Ethernet's 14, that of IP without options 20 or 40, and 4
# bytes of ports. Whatever decides where the TCP header begins is compared, too: else the numbers could be elsewhere in
# the packet, which would get out. For IPv4 that is the header's length, no fragment, and the protocol.
_INNER = {
    "0x0800": "@th,240,8 0x45 @th,288,16 0x4000 @th,312,8 6 @th,432,64",
    "0x86dd": "@th,288,8 6 @th,592,64",
}
_ETHERTYPE = "@th,224,16"
_NUMBERS = f"{ids.PROBE_NUMBERS:#018x}"
OUTER = tuple(f'"lo" {_ETHERTYPE} {kind} {numbers} {_NUMBERS}' for kind, numbers in _INNER.items())
"""Expressions, behind ``iifname`` or ``oifname``, for a probe in its tunnel, by the family of the inner packet."""
INNER = f"meta l4proto tcp @th,32,64 {_NUMBERS}"
"""The expression for a probe that has come out of its tunnel."""


def arrived(matching: str) -> str:
    """Return the rule that reports a probe that is about to leave. ``matching``: expressions for this way out."""
    return f"{INNER} {matching} log group {ids.PROBE_GROUP} counter drop"
