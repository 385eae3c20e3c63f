"""Number the egress IPs of a plan: only those that pods of this node use or may use, or that this node can serve.

Numbers have a meaning only on their own node. A *slot* is a number in the packet mark, with a routing table and rules.
An *inlet* is a number for connections out of a tunnel; there are many inlets
(:meth:`cni.kernel.ids.MarkLayout.taken_in`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from cni.plan import Plan, PlanEgressIP, SetKey

from ..manifests.model import Gateway, Problem
from . import egress_ips, id_allocation

PREPARED_EGRESS_IPS = 64
"""Number of egress IPs that have a slot though no pod of the node uses them, for pods that start while no agent runs.
"""
MIN_SLOTS = 8
"""Number of egress IPs that have a slot in any case: in a small cluster the first policy of a gateway needs no new
device.
"""


def with_inlets(plan: Plan, before: Plan | None) -> Plan:
    """Return the plan with an inlet for each egress IP that this node can serve, or still serves."""
    mine = [e.id for e in plan.egress_ips if plan.node in e.eligible or plan.serves(e)]
    old = {egress.id: egress.inlet for egress in before.incoming} if before else {}
    inlets = id_allocation.assign(mine, old, plan.layout.inlets)
    numbered = (
        replace(e, inlet=inlet) if (inlet := inlets.get(e.id, 0)) != e.inlet else e for e in plan.egress_ips
    )
    return replace(plan, egress_ips=tuple(numbered))


def with_slots(
    plan: Plan,
    before: Plan | None,
    needed: Iterable[SetKey],
    prepared: Iterable[SetKey],
    gateways: Iterable[Gateway],
    problems: list[Problem],
) -> Plan:
    """Return the plan with a slot for each egress IP that pods of this node use or may use.

    ``needed``: the policy sets of pods. ``prepared``: the sets for pods that may start while no agent runs; at most
    :data:`PREPARED_EGRESS_IPS` of their egress IPs have a slot. A gateway with its own routing also needs a slot on
    each node that can serve it.
    """
    routed = (e.id for e in plan.egress_ips if e.routed and e.interface)
    used = tuple(dict.fromkeys([*_of(needed), *routed]))
    in_use = set(used)
    spare = [each for each in dict.fromkeys(_of(prepared)) if each not in in_use]
    holds = plan.layout.numbers
    wanted = [*used, *spare[:PREPARED_EGRESS_IPS]]
    known = set(wanted)
    others = (egress.id for egress in plan.egress_ips if egress.id not in known)
    wanted = [*wanted, *islice(others, max(0, MIN_SLOTS - len(wanted)))][:holds]
    old = {egress.id: egress.slot for egress in before.outgoing} if before else {}
    slots = id_allocation.assign(wanted, old, holds)
    problems += _without(plan, used[holds:], gateways)
    return replace(plan, egress_ips=tuple(_numbered(plan.egress_ips, slots)))


def _of(keys: Iterable[SetKey]) -> Iterator[str]:
    for _, ids4, ids6 in keys:
        yield from ids4
        yield from ids6


def _numbered(found: Iterable[PlanEgressIP], slots: Mapping[str, int]) -> Iterator[PlanEgressIP]:
    for egress in found:
        slot = slots.get(egress.id, 0)
        if egress.routed and not slot:
            # Without its own mark, the packet would leave by the main table.
            yield replace(
                egress, slot=0, interface="", source="", source6="", next_hop="", on_link="", table=0
            )
        else:
            yield replace(egress, slot=slot) if slot != egress.slot else egress


def _without(plan: Plan, names: Sequence[str], gateways: Iterable[Gateway]) -> Iterator[Problem]:
    """Yield a problem for each egress IP that pods of this node use and that has no number."""
    by_name = {gateway.name: gateway for gateway in gateways}
    for identity in names:
        egress = plan.by_id[identity]
        name = f"gateway {egress.gateway} {egress.address}".rstrip()
        message = f"{name}: no number is left for it: mark mask {plan.mask:#x} holds {plan.layout.numbers}"
        hint = "widen mark.mask in the configuration; packets of this node's pods to it are dropped"
        gateway = by_name.get(egress.gateway)
        path = egress_ips.path_of(gateway, egress.address) if gateway else ""
        yield Problem(gateway.source if gateway else name, path, message, hint)


def kept(plan: Plan, previous: Plan, needed: Collection[str]) -> Plan:
    """Return the plan with the slots of the ``previous`` plan for the egress IPs ``needed`` (ids).

    Egress IPs with a slot keep it; no number gets a second owner.
    """
    taken = {egress.slot for egress in plan.outgoing}
    old = {e.id: e.slot for e in previous.outgoing if e.id in needed and e.slot not in taken}
    if not old:
        return plan
    again = (replace(e, slot=e.slot or old.get(e.id, 0)) for e in plan.egress_ips)
    return replace(plan, egress_ips=tuple(again))
