"""The node's data path in the kernel, brought to a plan or compared with it: for the agent and for the plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..kernel import ids, rtnl
from ..kernel.diff import Change, described, diff
from ..kernel.errors import KernelError, Outcome, Refusal
from ..kernel.nftables import nft
from ..kernel.rtnl_ops import has_ipv6
from ..kernel.state import KernelState, Object, Route, Rule, Vxlan
from ..plan import Plan, PlanEgressIP
from . import own_routing
from .objects import node_nft, node_state

MAX_ROUNDS = 3
"""The kernel takes some objects along with others (a device that goes down, its routes): what one round could not
foresee, the next one sees."""


def ensure(plan: Plan) -> Outcome:
    """Bring the kernel to the plan.

    nftables first: its guards drop what the routes of the next moment would let out. The neighbour entry that
    points at the master is made if it is missing, and else left to the lease daemon. An object of one egress IP that
    the kernel refuses leaves the others alone: the guards drop the packets of that one. Raises
    :class:`~cni.kernel.errors.KernelError` for any other refusal, after all that the kernel accepts has been made.
    """
    done = list(nft.ensure(node_nft(plan)))
    refused: dict[Change, KernelError] = {}
    for _ in range(MAX_ROUNDS):
        changes = _changes(plan)
        refused = rtnl.apply(changes)
        made = [change for change in changes if change not in refused]
        done += described(made)
        if not made:
            break
    return Outcome(tuple(done), _of_egress_ips(plan, refused))


def _of_egress_ips(plan: Plan, refused: Mapping[Change, KernelError]) -> tuple[Refusal, ...]:
    """Return the first refusal of each egress IP. Raises the first one that is of none, or of several."""
    found: dict[str, Refusal] = {}
    for change, error in refused.items():
        egress = next((each for each in plan.tunnels if _belongs(change.target, each, plan)), None)
        if egress is None:
            raise error
        found.setdefault(egress.id, Refusal(egress.id, error))
    return tuple(found.values())


def _belongs(target: Object, egress: PlanEgressIP, plan: Plan) -> bool:
    """Return True if this egress IP needs the object, and no other one does."""
    if isinstance(target, Rule):
        slot = egress.slot
        return bool(slot) and target.mark in (plan.layout.number(slot), plan.layout.leaving(slot))
    if isinstance(target, Route):
        return bool(egress.slot) and target.table in (
            ids.TABLE_BASE + egress.slot,
            ids.EXIT_TABLE_BASE + egress.slot,
        )
    return (target.name if isinstance(target, Vxlan) else target.device) == egress.device


def lead_answers(plan: Plan) -> tuple[str, ...]:
    """Put missing rules for answers to gateways with their own routing. Return a description of each.

    They come before the gateway's nftables rules, which mark answers for them: an answer with such a mark and without
    its rule would leave by the main table, or by the next hop. Without the mark the rules match nothing. Raises
    :class:`~cni.kernel.errors.KernelError`.
    """
    if not any(map(own_routing.of, plan.outgoing)):
        return ()
    rules = [
        each
        for each in _changes(plan)
        if each.action == "put" and isinstance(each.target, Rule) and each.target.iif
    ]
    for error in rtnl.apply(rules).values():
        raise error
    return tuple(map(str, rules))


def missing(plan: Plan) -> tuple[str, ...]:
    """Return a description of each thing that :func:`ensure` would change. Changes nothing. Raises KernelError."""
    return (*nft.missing(node_nft(plan)), *(change.problem for change in _changes(plan)))


def _changes(plan: Plan) -> tuple[Change, ...]:
    desired = node_state(plan)
    if not has_ipv6():
        desired = _ipv4_only(desired)
    return diff(rtnl.observe(), desired)


def _ipv4_only(state: KernelState) -> KernelState:
    """Return the state without IPv6: a kernel that has none can neither leak it nor be configured for it."""
    return replace(
        state,
        settings=frozenset(setting for setting in state.settings if setting.family == "ipv4"),
        routes=frozenset(route for route in state.routes if route.family == 4),
        rules=frozenset(rule for rule in state.rules if rule.family == 4),
    )
