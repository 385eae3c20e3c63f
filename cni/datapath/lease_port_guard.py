"""The guards of the cluster port, as nftables rules: UDP of the lease daemons, TCP of the agents. Pure.

Each datagram costs a daemon, which runs with real-time priority, the check of a keyed hash, and a full queue costs
heartbeats. So only nodes reach the port, by the interface that leads to them and at a bounded rate. A node also drops
datagrams of its own users and pods to other nodes' daemons: these would arrive with the node's address and use up the
node's rate.

A forged datagram with a node's address has another MAC than the node's own, unless the sender takes over that node's
port of the switch as well. So the rate is counted for each MAC with each address, in a set that has hardly more places
than there are nodes: a node that has sent before a flood has its place in the set and keeps its rate. All senders
without a place share one rate, so the number of forged MACs does not matter. If a router is replaced, the nodes behind
it use the shared rate until the places of the old MACs are free.

Places and rates are two sets: a lookup in a set with a rate uses up some of the rate, and finds nothing if the rate is
used up. With one set, a sender over its own rate would pass by the shared rate.

By TCP the agents give each other manifests, if the plan has a port for it: the same nodes reach the port by the same
interfaces.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..plan import Plan
from .nft_blocks import KEYWORDS, address_of, chain, from_elsewhere, peers, underlay

RATE = "limit rate 500/second burst 250 packets"
"""Rate limit for datagrams from one node. A daemon sends a heartbeat and an answer in each period (20 ms is a short
one), and some more when masters change.
"""
SHARED_RATE = "limit rate 2000/second burst 500 packets"
"""Rate limit for all senders without a place together."""
SPARE_ELEMENTS = 8
"""Places beyond one for each node: for nodes that are new, or change their network card."""
RATE_ELEMENT_TTL = "1m"
CONNECT_RATE = "limit rate over 100/second burst 200 packets"
"""Rate limit for new TCP connections of all senders together. A node makes one in five seconds, and more for a push."""


def chains(plan: Plan) -> Iterator[str]:
    """Yield the chains and sets; none if the plan names no port."""
    if not plan.cluster_port:
        return
    family = underlay(plan.me) if plan.me else 4
    keyword = KEYWORDS[family]
    nodes = [address_of(node.address, family) for node in peers(plan)]
    yield _set("lease_nodes", f"{keyword} saddr", [f"elements = {{ {', '.join(nodes)} }}"] if nodes else [])
    # The size is in the name, since the size of an existing set cannot be changed.
    size = len(nodes) + SPARE_ELEMENTS
    bounded = [f"size {size}", "flags dynamic,timeout", f"timeout {RATE_ELEMENT_TTL}"]
    # Twice the size: the kernel may remove an expired place before the rate that belongs to it.
    room = [f"size {2 * size}", *bounded[1:]]
    places, rates = f"lease_places_{size}", f"lease_rates_{2 * size}"
    by_address, sender = f"lease_plain_rates_{size}", f"ether saddr . {keyword} saddr"
    yield _set(places, sender, bounded)
    yield _set(rates, sender, room)
    yield _set(by_address, f"{keyword} saddr", bounded)
    yield chain("lease_source", _source(plan, family))
    yield chain("lease_own_rate", [f"update @{rates} {{ {sender} {RATE} }} accept", "counter drop"])
    receive = [
        "jump lease_source",
        f"meta iiftype != ether update @{by_address} {{ {keyword} saddr {RATE} }} accept",
        "meta iiftype != ether counter drop",
        # If the set is full, the rule ends here.
        f"update @{places} {{ {sender} }} goto lease_own_rate",
        f"{SHARED_RATE} accept",
        "counter drop",
    ]
    yield chain("lease_receive", receive)
    if plan.sets_port:
        opening = f"tcp flags & (syn | ack) == syn {CONNECT_RATE} counter drop"
        yield chain("sets_receive", ["jump lease_source", opening])
    sent = [f"{keyword} daddr @lease_nodes meta skuid != 0 counter drop"]
    yield chain("lease_send", sent)


def ports(plan: Plan) -> tuple[int, ...]:
    """Return the guarded ports, in order; none if the plan names none."""
    return (
        tuple(sorted({plan.cluster_port, plan.sets_port or plan.cluster_port})) if plan.cluster_port else ()
    )


def arrival_rules(plan: Plan) -> Iterator[str]:
    """Yield the rules for arriving packets: before connection tracking, which costs more than the drop."""
    if plan.cluster_port:
        yield f"udp dport {plan.cluster_port} fib daddr type local goto lease_receive"
        if plan.sets_port:
            yield f"tcp dport {plan.sets_port} fib daddr type local jump sets_receive"


def input_rules(plan: Plan) -> Iterator[str]:
    """Yield the rules for what is delivered to this node: behind destination NAT, too."""
    yield from (f"{port} goto lease_source" for port in _ports(plan))


def output_rules(plan: Plan) -> Iterator[str]:
    """Yield the rules for what this node's own processes send."""
    yield from (f"{port} goto lease_send" for port in _ports(plan))


def _ports(plan: Plan) -> Iterator[str]:
    if plan.cluster_port:
        yield f"udp dport {plan.cluster_port}"
        if plan.sets_port:
            yield f"tcp dport {plan.sets_port}"


def forward_rules(plan: Plan) -> Iterator[str]:
    """Yield the rule for a UDP packet that is forwarded."""
    if plan.cluster_port:
        keyword = KEYWORDS[underlay(plan.me) if plan.me else 4]
        yield f"udp dport {plan.cluster_port} {keyword} daddr @lease_nodes goto lease_source"


def forward_tcp_rules(plan: Plan) -> Iterator[str]:
    """Yield the rule for a TCP packet that is forwarded."""
    if plan.cluster_port and plan.sets_port:
        keyword = KEYWORDS[underlay(plan.me) if plan.me else 4]
        yield f"tcp dport {plan.sets_port} {keyword} daddr @lease_nodes goto lease_source"


def _source(plan: Plan, family: int) -> Iterator[str]:
    """Yield the rules that drop packets which do not come from another node by the interface that leads to the node."""
    yield f"meta nfproto ipv{10 - family} counter drop"
    yield f"{from_elsewhere(plan)} counter drop"
    yield f"{KEYWORDS[family]} saddr @lease_nodes return"
    yield "counter drop"


def _set(name: str, key: str, lines: list[str]) -> str:
    """Return, as text, a set whose elements have the type of the expression ``key``."""
    return f"\tset {name} {{\n" + "".join(f"\t\t{line}\n" for line in [f"typeof {key}", *lines]) + "\t}\n"
