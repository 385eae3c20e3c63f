"""Check that replies from outside get into the tunnels of a master: no probe shows a firewall that drops them."""

from __future__ import annotations

import asyncio

from cni.kernel.errors import KernelError

from ...manifests.model import Problem
from ...policy.egress_node import path_faults
from ...policy.egress_node.path_faults import Answers
from ..ports import PathProbe, Threads
from ..state import NodeState

INTERVAL_S = 2.0
"""Seconds between two reads of the counters."""


class AnswerChecks:
    """The replies to a master, by the counters of our rules. Without packets there is no result."""

    def __init__(self, state: NodeState, probe: PathProbe, threads: Threads) -> None:
        self._state = state
        self._probe = probe
        self._threads = threads
        self._before: Answers | None = None
        """Counters at the begin of the window; a window ends when enough replies have come."""
        self._problem = ""

    def problems(self) -> tuple[Problem, ...]:
        """Return the problem that the replies of the last window were dropped.

        It causes no handover: see :mod:`.exit_checks`.
        """
        return (Problem("path", "", self._problem),) if self._problem else ()

    async def run(self) -> None:
        """Compare the counters periodically until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.look()

    async def look(self) -> None:
        """Compare the counters once."""
        plan = self._state.applied
        if plan is None or not any(plan.serves(egress) for egress in plan.egress_ips):
            self._before, self._problem = None, ""
            return
        try:
            now = await self._threads.run(self._probe.answers)
        except (OSError, KernelError):
            # The rounds report what is wrong with the rules.
            self._before = None
            return
        window = now.since(self._before) if self._before else None
        if window is None:
            self._before = now
        elif window.enough:
            self._before, self._problem = now, path_faults.dropped_answers(window)
