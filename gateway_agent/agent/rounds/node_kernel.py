"""Reconcile the kernel of this node with plans, and remember the last one."""

from __future__ import annotations

import logging

from cni.kernel.errors import KernelError
from cni.plan import Plan

from ...policy import planner
from ..ports import Kernel
from ..state import NodeState

log = logging.getLogger(__name__)


class NodeKernel:
    """The only writer of ``NodeState.applied``, ``NodeState.kernel_in_doubt`` and ``NodeState.refused``."""

    def __init__(self, kernel: Kernel, state: NodeState) -> None:
        self._kernel = kernel
        self._state = state
        self._fenced: tuple[str, ...] = ()
        self._guard: str | None = None
        """The rules of the guard that are in force; None: not known."""

    def doubt(self) -> None:
        """Note that one of our objects in the kernel may have changed: the next round compares everything."""
        self._state.kernel_in_doubt = True
        self._guard = None

    def assume(self, plan: Plan, devices: tuple[str, ...]) -> None:
        """Assume that an earlier process has reconciled the kernel with this plan."""
        self._kernel.assume_applied(plan, devices)

    async def reconcile(self, plan: Plan, previous: Plan | None, devices: tuple[str, ...]) -> Plan | None:
        """Reconcile the kernel with a plan, unless it is up to date. ``devices``: those with the fence.

        Policy sets of the ``previous`` plan stay as long as an interface has their tag. Return the plan with these
        sets; None if the kernel was up to date. Raises KernelError.
        """
        state = self._state
        there = plan == state.applied and devices == self._fenced
        if there and not state.kernel_in_doubt and not state.refused:
            return None
        self._fenced = devices
        tags = await self._kernel.tagged()
        interim = planner.with_sets_in_use(plan, previous, frozenset(tags.values()))
        await self._reconcile(interim, devices)
        state.applied = plan
        return interim

    async def drop_unused_sets(self, plan: Plan, devices: tuple[str, ...]) -> None:
        """Reconcile the kernel with the plan alone, once each tag belongs to one of its policy sets.

        Raises KernelError.
        """
        await self._reconcile(plan, devices)

    async def guard(self, text: str) -> tuple[str, ...]:
        """Reconcile the guard of unknown pods with these rules. Return a text for each change.

        Raises KernelError.
        """
        if text == self._guard:
            return ()
        # Before the call: an event during the call may belong to a later change.
        self._guard = text
        try:
            changes = await self._kernel.guard(text)
        except KernelError:
            self._guard = None
            raise
        for change in changes:
            log.info("kernel: %s", change)
        return changes

    async def _reconcile(self, plan: Plan, devices: tuple[str, ...]) -> None:
        # Before the call: an event during the call may belong to a later change.
        self._state.kernel_in_doubt = False
        try:
            outcome = await self._kernel.reconcile(plan, devices)
        except KernelError:
            self._state.kernel_in_doubt = True
            raise
        for change in outcome.done:
            log.info("kernel: %s", change)
        before, after = self._state.refused, {each.egress_id: each.error for each in outcome.refused}
        for identity, error in after.items():
            if str(error) != str(before.get(identity)):
                log.error("%s: %s", self._state.egress_name(identity), error)
        self._state.refused = after
