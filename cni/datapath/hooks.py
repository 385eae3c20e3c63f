"""The base chains in which several parts have rules, as nftables rules. Pure.

Each base chain costs every packet of the node, so there is one for each hook that is needed. The first rule of each
lets go on what has nothing to do with us: an OR of all that the other rules look for, negated, is one rule. It compares
without a set, and a packet that cannot be compared (no transport header, no connection) passes the other rules.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..plan import Plan
from . import lease_port_guard, overlay_guard, source_guard, sync_device, tunnel_port_guard
from .nft_blocks import TUNNELS, UNTAGGED, Marks, chain, not_to, own_ports


def chains(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the chains that see packets before connection tracking, and what is forwarded, delivered or sent."""
    yield chain("arrival", _arrival(plan, marks), "filter hook prerouting priority raw")
    yield chain("arrival_source", source_guard.arrival_rules(marks))
    yield chain("forward_guard", _forward_guard(plan, marks), "filter hook forward priority filter - 20")
    yield chain("forward_checked", _forward_checked(plan))
    yield chain("input_guard", _input_guard(plan), "filter hook input priority filter - 20")
    output = [
        f"{not_to(own_ports(plan))} accept",
        *tunnel_port_guard.output_rules(plan),
        *lease_port_guard.output_rules(plan),
    ]
    yield chain("output_guard", output, "filter hook output priority filter - 20")
    # A pod that could send VXLAN to a gateway would leave by any egress IP.
    datagrams = [f"udp dport {plan.port} counter drop", *lease_port_guard.forward_rules(plan)]
    yield chain("forwarded_datagram", datagrams)


def _arrival(plan: Plan, marks: Marks) -> Iterator[str]:
    others = [not_to(ports)] if (ports := lease_port_guard.ports(plan)) else []
    yield " ".join((UNTAGGED, marks.none, *others, "accept"))
    yield from (f"{each} goto arrival_source" for each in others)
    yield from lease_port_guard.arrival_rules(plan)
    yield "goto arrival_source"


def _input_guard(plan: Plan) -> Iterator[str]:
    """Yield the rules for what is delivered to this node itself, behind destination NAT."""
    others = not_to(sorted((*own_ports(plan), *sync_device.ports(plan))))
    accepted = f"{others} iifname != {TUNNELS} accept"
    yield f"{overlay_guard.no_overlay(plan)} {accepted}"
    # No overlay sends TCP to a node.
    yield f"meta l4proto tcp {accepted}"
    yield overlay_guard.RECEIVE_RULE
    yield accepted
    yield from tunnel_port_guard.input_rules(plan)
    yield from lease_port_guard.input_rules(plan)


def _forward_guard(plan: Plan, marks: Marks) -> Iterator[str]:
    others = f"{marks.none} {marks.foreign} iifname != {TUNNELS} {not_to(own_ports(plan))} accept"
    yield from (f"{source} {others}" for source in source_guard.free_sources(plan))
    yield f"{not_to(own_ports(plan))} goto forward_checked"
    yield "meta l4proto udp jump forwarded_datagram"
    yield from lease_port_guard.forward_tcp_rules(plan)
    yield "goto forward_checked"


def _forward_checked(plan: Plan) -> Iterator[str]:
    yield f"iifname {TUNNELS} goto tunnel_forward"
    yield from source_guard.forward_rules(plan)
    yield "goto forwarded"
