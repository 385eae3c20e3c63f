"""The base chains in which several parts have rules, as nftables rules. Pure.

Each base chain costs every packet of the node, so there is one for each hook that is needed, and the rules that
most packets pass come first and compare without a set.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..plan import Plan
from . import lease_port_guard, source_guard
from .nft_blocks import TUNNELS, Marks, chain


def chains(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the chains that see packets before connection tracking and those that are forwarded."""
    arrival = [*lease_port_guard.arrival_rules(plan), *source_guard.arrival_rules(marks)]
    yield chain("arrival", arrival, "filter hook prerouting priority raw")
    yield chain("forward_guard", _forward_guard(plan), "filter hook forward priority filter - 20")
    # A pod that could send VXLAN to a gateway would leave by any egress IP.
    datagrams = [f"udp dport {plan.port} counter drop", *lease_port_guard.forward_rules(plan)]
    yield chain("forwarded_datagram", datagrams)


def _forward_guard(plan: Plan) -> Iterator[str]:
    yield "meta l4proto udp jump forwarded_datagram"
    yield from lease_port_guard.forward_tcp_rules(plan)
    yield f"iifname {TUNNELS} goto tunnel_forward"
    yield from source_guard.forward_rules(plan)
    yield "goto forwarded"
