"""The node's data path in the kernel, brought to a plan or compared with it: for the agent and for the plugin."""

from __future__ import annotations

from dataclasses import replace

from ..kernel import rtnl
from ..kernel.diff import Change, diff, in_words
from ..kernel.nftables import nft
from ..kernel.rtnl_ops import has_ipv6
from ..kernel.state import KernelState, Rule
from ..plan import Plan
from . import own_routing
from .objects import node_nft, node_state

MAX_ROUNDS = 3
"""The kernel takes some objects along with others (a device that goes down, its routes): what one round could not
foresee, the next one sees."""


def ensure(plan: Plan) -> tuple[str, ...]:
    """Bring the kernel to the plan. Return a description of each change; empty if nothing was changed.

    nftables first: its guards drop what the routes of the next moment would let out. The neighbour entry that
    points at the master is made if it is missing, and else left to the lease daemon. Raises
    :class:`~cni.kernel.errors.KernelError`.
    """
    done = list(nft.ensure(node_nft(plan)))
    for _ in range(MAX_ROUNDS):
        changes = _changes(plan)
        if not changes:
            break
        rtnl.apply(changes)
        done += in_words(changes)
    return tuple(done)


def lead_answers(plan: Plan) -> tuple[str, ...]:
    """Put the rules for answers to gateways with their own routing, if some are missing. Return them in words.

    They come before the gateway's nftables rules, which mark answers for them: an answer with such a mark and without
    its rule would leave by the main table, or by the next hop. Without the mark the rules match nothing. Raises
    :class:`~cni.kernel.errors.KernelError`.
    """
    if not any(map(own_routing.of, plan.egress_ips)):
        return ()
    rules = [
        each
        for each in _changes(plan)
        if each.action == "put" and isinstance(each.target, Rule) and each.target.iif
    ]
    rtnl.apply(rules)
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
