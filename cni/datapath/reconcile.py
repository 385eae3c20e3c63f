"""Makes the node's data path stand, or says what of it does not: for the agent, and for the plugin alone."""

from __future__ import annotations

from dataclasses import replace

from ..kernel import rtnl
from ..kernel.diff import Change, diff
from ..kernel.nftables import nft
from ..kernel.rtnl_ops import has_ipv6
from ..kernel.state import KernelState
from ..plan import Plan
from .objects import node_nft, node_state

ROUNDS = 3
"""The kernel takes some objects along with others (a device that goes down, its routes): what one round could not
foresee, the next one sees."""


def ensure(plan: Plan) -> tuple[str, ...]:
    """Brings the kernel to the plan and says in words what it changed; nothing changed gives an empty tuple.

    nftables first: its guards drop what the routes of the next moment would let out. The neighbour entry that
    names the master is made where it is missing, and else left to the lease keeper. Raises
    :class:`~cni.kernel.errors.KernelError`.
    """
    done = list(nft.ensure(node_nft(plan)))
    for _ in range(ROUNDS):
        changes = _changes(plan)
        if not changes:
            break
        rtnl.apply(changes)
        done += [str(change) for change in changes]
    return tuple(done)


def missing(plan: Plan) -> tuple[str, ...]:
    """What :func:`ensure` would mend, in words; changes nothing."""
    return (*nft.missing(node_nft(plan)), *(change.problem for change in _changes(plan)))


def _changes(plan: Plan) -> tuple[Change, ...]:
    desired = node_state(plan)
    if not has_ipv6():
        desired = _ipv4_only(desired)
    return diff(rtnl.observe(), desired)


def _ipv4_only(state: KernelState) -> KernelState:
    """Without IPv6 in the kernel nothing of it can leak, and nothing of it can be set."""
    return replace(
        state,
        settings=frozenset(setting for setting in state.settings if setting.family == "ipv4"),
        routes=frozenset(route for route in state.routes if route.family == 4),
        rules=frozenset(rule for rule in state.rules if rule.family == 4),
    )
