"""Routes, rules and guards of gateways with their own routing (``spec.routing``), beside the main table. Pure.

A packet that leaves this node for such a gateway has a mark of its own (:meth:`cni.kernel.ids.MarkLayout.leaving`),
whether it came out of a tunnel or, on the master, from one of the node's pods. One rule leads the mark into a table of
ours: the next hop on the egress interface, above an ``unreachable`` default. If the gateway names another
program's table, a rule before ours leads there first.

The kernel may check the source of an answer (``rp_filter``): it looks up the route back to the source, with the
answer's mark (``src_valid_mark``), as if the packet came by the interface by which the answer leaves. So an answer gets
a mark that leads out by the egress interface, and rules for that interface lead the answer itself into the tunnel, or
to a pod of this node. In these rules the mark is the slot's, which no other packet of the master has.

The guards compare the next hop that the kernel has chosen. So if a rule or a route is added, changed or removed,
packets are dropped; they never leave by another router. In another program's table that program chooses the next hop,
so only the interface is checked.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..kernel import ids
from ..kernel.state import Route, Rule
from ..plan import Plan, PlanEgressIP

MAIN_TABLE = 254
METRIC = {4: 0, 6: 1024}
"""Metric of a route, by family. The kernel gives an IPv6 route without a metric the same one."""


def of(egress: PlanEgressIP) -> bool:
    """Return True if packets leave this node by the gateway's own routing."""
    return egress.routed and bool(egress.interface)


def routes(plan: Plan) -> Iterator[Route]:
    """Yield the routes of the gateways' own tables."""
    for egress in filter(of, plan.outgoing):
        family, table = egress.family, ids.EXIT_TABLE_BASE + egress.slot
        yield Route(family, ids.EXIT_TABLE_BASE, "unreachable", metric=ids.UNREACHABLE_METRIC)
        yield Route(family, table, "unreachable", metric=ids.UNREACHABLE_METRIC)
        yield from exits(egress, table)
        if plan.serves(egress):
            yield from exits(egress, ids.TABLE_BASE + egress.slot)


def exits(egress: PlanEgressIP, table: int) -> Iterator[Route]:
    """Yield the routes by which packets leave; none if another program's table has them or the interface is down."""
    family, device = egress.family, egress.interface
    if egress.next_hop:
        yield Route(family, table, "unicast", METRIC[family], device, egress.next_hop)
    if egress.on_link:
        yield Route(family, table, "unicast", METRIC[family], device, destination=egress.on_link)


def rules(plan: Plan) -> Iterator[Rule]:
    """Yield the rules that lead packets into these tables, and answers past them."""
    for egress in filter(of, plan.outgoing):
        family, device, mask = egress.family, egress.interface, plan.layout.mask
        leaving, here = plan.layout.leaving(egress.slot), plan.layout.number(egress.slot)
        yield Rule(family, ids.ANSWER_PRIORITY, leaving, mask, ids.TABLE_BASE, device)
        # To a pod of this node: by the main table, or not at all.
        yield Rule(family, ids.ANSWER_PRIORITY, here, mask, MAIN_TABLE, device)
        yield Rule(family, ids.FOREIGN_TABLE_PRIORITY, here, mask, ids.EXIT_TABLE_BASE, device)
        if egress.table:
            yield Rule(family, ids.FOREIGN_TABLE_PRIORITY, leaving, mask, egress.table)
        if egress.table and plan.serves(egress):
            yield Rule(family, ids.FOREIGN_TABLE_PRIORITY, here, mask, egress.table)
        own = ids.EXIT_TABLE_BASE + egress.slot
        yield Rule(family, ids.RULE_PRIORITY_BASE + egress.slot, leaving, mask, own)


def verdict(egress: PlanEgressIP) -> str:
    """Return the verdict on a packet that leaves by the egress interface: ``accept``, or a check of its next hop."""
    return f"goto exit_{egress.slot}" if of(egress) and not egress.table else "accept"


def exit_rules(egress: PlanEgressIP) -> Iterator[str]:
    """Yield the rules of the chain that :func:`verdict` names."""
    keyword = "ip6" if egress.family == 6 else "ip"
    if egress.on_link:
        yield f"{keyword} daddr {egress.on_link} accept"
    if egress.next_hop:
        yield f"rt {keyword} nexthop {egress.next_hop} accept"
    yield "counter drop"
