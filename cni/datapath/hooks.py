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
    others = not_to(lease_port_guard.ports(plan))
    yield " ".join(filter(None, (UNTAGGED, marks.none, others, "accept")))
    yield source_guard.tagged_rule(others)
    if others:
        yield f"{others} goto arrival_source"
    yield from lease_port_guard.arrival_rules(plan)
    yield "goto arrival_source"


def _input_guard(plan: Plan) -> Iterator[str]:
    """Yield the rules for what is delivered to this node itself, behind destination NAT."""
    ports = {*own_ports(plan), *sync_device.ports(plan)} - {plan.port}
    # The port of the tunnels first: the first rule is over for their packets, and the second is theirs. It comes before
    # the guard of overlays, which lets them pass.
    others = not_to((plan.port, *sorted(ports)))
    accepted = f"{others} iifname != {TUNNELS} accept"
    yield f"{others} {overlay_guard.no_overlay(plan)} iifname != {TUNNELS} accept"
    yield tunnel_port_guard.receive_rule(plan)
    # No overlay sends TCP to a node.
    yield f"meta l4proto tcp {accepted}"
    yield overlay_guard.RECEIVE_RULE
    yield accepted
    yield from tunnel_port_guard.input_rules(plan)
    yield from lease_port_guard.input_rules(plan)


def _forward_guard(plan: Plan, marks: Marks) -> Iterator[str]:
    others = f"{marks.foreign} {marks.none} iifname != {TUNNELS} {not_to(own_ports(plan))}"
    for version, source in source_guard.free_sources(plan):
        # What costs most is compared last: of steered connections no packet comes to it.
        yield f"meta nfproto ipv{version} {others} {source} accept"
    yield f"{not_to(own_ports(plan))} goto forward_checked"
    yield "meta l4proto udp jump forwarded_datagram"
    yield from lease_port_guard.forward_tcp_rules(plan)
    yield "goto forward_checked"


def _forward_checked(plan: Plan) -> Iterator[str]:
    yield f"iifname {TUNNELS} goto tunnel_forward"
    yield from source_guard.forward_rules(plan)
    yield "goto forwarded"
