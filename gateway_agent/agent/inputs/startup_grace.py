"""Keep what was last known in force while a lease daemon that has just started knows nothing.

``plan`` is the one in force, None if there is none; ``listened``: for how many seconds the daemon has run.
"""

from __future__ import annotations

from cni.plan import Plan

from ...lease.ipc import KeeperState

STARTUP_GRACE_S = 2.0
"""Seconds that a new daemon gets to learn of the masters: several times what they need to answer it."""


def isolated(state: KeeperState | None, plan: Plan | None, listened: float, lease: float) -> bool:
    """Return True if this node has no contact with a majority of the voters.

    ``lease``: seconds in which a message comes from every voter.
    """
    if state is not None and (not state.isolated or listened > lease):
        return state.isolated
    return plan is not None and plan.isolated


def masters(state: KeeperState | None, plan: Plan | None, listened: float) -> dict[str, tuple[str, int]]:
    """Return by egress id the master and its epoch, as far as known. An id that is left out keeps what it had."""
    if state is None:
        return {e.id: (e.master, e.epoch) for e in plan.egress_ips} if plan else {}
    # A master soon answers a daemon that is new to it.
    return {e.id: (e.master, e.epoch) for e in state.egress if e.epoch or listened >= STARTUP_GRACE_S}
