"""Whether packets of pods get through this node to the egress interface, past the rules of all other programs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cni.kernel.errors import KernelError
from cni.plan import Plan, PlanEgressIP

from ..manifests.model import Problem
from ..policy import path_faults
from ..policy.path_faults import Dropped, TunnelProbe
from .exit_checks import ExitChecks
from .ports import PathProbe, Threads
from .state import NodeState

INTERVAL_S = 1.0
"""Seconds from one round of probes to the next."""
MISSES = 2
"""Rounds in a row without a probe: one may be lost while the kernel's rules are replaced."""
AGAIN_S = 10.0
"""Seconds after which the cause is looked for again: it may be another one by then."""
log = logging.getLogger(__name__)


class PathChecks:
    """Probes for all egress IPs that this node can serve, whether it is their master or not."""

    def __init__(self, state: NodeState, exits: ExitChecks, probe: PathProbe, threads: Threads) -> None:
        self._state = state
        self._exits = exits
        self._probe = probe
        self._threads = threads
        self._missed: dict[str, int] = {}
        """Rounds in a row in which a probe did not get through, by id of the egress IP."""
        self._reasons: dict[str, str] = {}
        self._looked_at: dict[str, float] = {}
        self._unproven = ""
        """Why nothing can be said of any path."""

    def reason(self, egress: PlanEgressIP) -> str:
        """Return why packets for this egress IP do not get through; empty if they do, or if it is not known."""
        return self._reasons.get(egress.id, "")

    def problems(self) -> tuple[Problem, ...]:
        """Return why paths cannot be proven."""
        hint = "status shows this node as ready without a proof"
        return (Problem("path", "", self._unproven, hint),) if self._unproven else ()

    async def run(self, changed: Callable[[], None]) -> None:
        """Probe until cancelled. ``changed`` is called if the path of an egress IP is found closed or open."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            if await self.look():
                changed()

    async def look(self) -> bool:
        """Probe once. Return True if the path of an egress IP is found closed or open."""
        before = dict(self._reasons)
        try:
            await self._round()
        except (OSError, KernelError) as error:
            self._missed, self._reasons = {}, {}
            self._unproven = f"the path of packets through this node cannot be tested: {error}"
        for words in set(self._reasons.values()).difference(before.values()):
            log.warning("%s", words)
        return self._reasons != before

    async def _round(self) -> None:
        plan = self._state.applied
        if plan is None or plan.me is None:
            return
        wanted = {
            egress: path_faults.probes(plan, egress, self._exits.leading_out(egress))
            for egress in plan.egress_ips
            if plan.node in egress.eligible
        }
        known = {egress.id for egress in wanted}
        self._reasons = {identity: words for identity, words in self._reasons.items() if identity in known}
        everything = [probe for probes in wanted.values() for probe in probes]
        if not everything:
            return
        passing = await self._threads.run(self._probe.passing, plan.me.address, everything)
        if plan is not self._state.applied:
            # The rules may have been replaced meanwhile.
            return
        self._unproven = ""
        for egress, probes in wanted.items():
            await self._judge(plan, egress, [probe for probe in probes if probe not in passing])

    async def _judge(self, plan: Plan, egress: PlanEgressIP, lost: list[TunnelProbe]) -> None:
        """Take in which probes of an egress IP did not get through."""
        if not lost:
            self._open(egress)
            return
        self._missed[egress.id] = self._missed.get(egress.id, 0) + 1
        now = asyncio.get_running_loop().time()
        if self._missed[egress.id] < MISSES or now < self._looked_at.get(egress.id, 0.0) + AGAIN_S:
            return
        assert plan.me is not None
        dropped: Dropped | None = await self._threads.run(
            self._probe.dropped_by, plan.me.address, lost[0], egress.device
        )
        if await self._threads.run(self._probe.passing, plan.me.address, lost[:1]):
            # The rule has gone: what the trace shows last is the rule that takes the probe.
            self._open(egress)
            return
        self._looked_at[egress.id] = now
        words = path_faults.reason(egress, lost[0], dropped)
        if dropped is None:
            # The probe did not enter the tunnel: this says nothing about the packets of other nodes.
            self._unproven = words
        else:
            self._reasons[egress.id] = words

    def _open(self, egress: PlanEgressIP) -> None:
        for known in (self._missed, self._reasons, self._looked_at):
            known.pop(egress.id, None)
