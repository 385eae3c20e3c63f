"""Keep the last known masters in force while a lease daemon that has just started knows none.

``plan``: the plan in force, or None; ``listened``: seconds since the daemon's start.
"""

from __future__ import annotations

from cni.plan import Plan

from ...lease.ipc import KeeperState

STARTUP_GRACE_S = 2.0
"""Seconds for a new daemon to learn of the masters: several times the time in which they answer it."""


def isolated(state: KeeperState | None, plan: Plan | None, listened: float, lease: float) -> bool:
    """Return True if this node has no contact with a majority of the voters.

    ``lease``: seconds within which every voter sends a message.
    """
    if state is not None and (not state.isolated or listened > lease):
        return state.isolated
    return plan is not None and plan.isolated


def masters(state: KeeperState | None, plan: Plan | None, listened: float) -> dict[str, tuple[str, int]]:
    """Return the known masters with their epochs, by egress id. A missing id keeps its last known master."""
    if state is None:
        return {e.id: (e.master, e.epoch) for e in plan.egress_ips} if plan else {}
    # A master soon answers a new daemon.
    return {e.id: (e.master, e.epoch) for e in state.egress if e.epoch or listened >= STARTUP_GRACE_S}
