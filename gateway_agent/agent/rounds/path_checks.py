"""Test the path of pods' packets through this node to the egress interface, past the rules of all other programs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from cni.kernel.errors import KernelError
from cni.plan import Plan, PlanEgressIP

from ...manifests.model import Problem
from ...policy.egress_node import path_faults
from ...policy.egress_node.path_faults import Dropped, TunnelProbe
from ..ports import PathProbe, Threads
from ..state import NodeState
from .exit_checks import ExitChecks

MIN_INTERVAL_S = 1.0
"""Seconds from one round of probes to the next."""
DOUBTFUL_INTERVAL_S = 0.2
"""Seconds until the next round if a probe did not get through."""
SHARE_S = 0.005
"""Seconds for each probe, if there are many: they take a hundredth of a processor at most."""
MISSES = 2
"""Rounds in a row without a probe: one may be lost while the kernel's rules are replaced."""
AGAIN_S = 10.0
"""Seconds after which the cause is looked for again: it may be another one by then."""
log = logging.getLogger(__name__)


@dataclass
class _Path:
    """The path of one egress IP through this node, as the last probes found it."""

    missed: int = 0
    """Rounds in a row in which a probe did not get through."""
    missed_large: int = 0
    """Rounds in a row in which only the probe of the tunnel's full size did not get through."""
    looked_at: float = -AGAIN_S
    """Time of the last search for the cause."""
    measured_at: float = -AGAIN_S
    """Time of the last measurement of the size that gets through."""
    reason: str = ""
    """Reason for lost packets; empty: packets get through, or it is not known."""
    problem: str = ""
    """Problem of a path that is not closed: a size, or a test that is not possible."""


class PathChecks:
    """Probes for all egress IPs that this node can serve, whether it is their master or not."""

    def __init__(self, state: NodeState, exits: ExitChecks, probe: PathProbe, threads: Threads) -> None:
        self._state = state
        self._exits = exits
        self._probe = probe
        self._threads = threads
        self._paths: dict[str, _Path] = {}
        """Paths by id of the egress IP."""
        self._untested = ""
        """Reason for which no path can be tested."""
        self._failed_rounds = 0
        """Rounds in a row that could not test: what was found before is kept for some."""
        # Until the first probes are sent, a closed path counts as open.
        self._interval = DOUBTFUL_INTERVAL_S

    def reason(self, egress: PlanEgressIP) -> str:
        """Return why packets for this egress IP do not get through; empty if they do, or if it is not known."""
        path = self._paths.get(egress.id)
        return path.reason if path else ""

    def problems(self) -> tuple[Problem, ...]:
        """Return what is wrong with paths that are not closed, and why paths cannot be tested."""
        found = dict.fromkeys([self._untested, *(path.problem for path in self._paths.values())])
        return tuple(Problem("path", "", words) for words in found if words)

    async def run(self, changed: Callable[[], None]) -> None:
        """Probe until cancelled. ``changed`` is called if the path of an egress IP is found closed or open."""
        while True:
            doubtful = any(
                path.missed and not path.reason and not path.problem for path in self._paths.values()
            )
            await asyncio.sleep(DOUBTFUL_INTERVAL_S if doubtful else self._interval)
            if await self.look():
                changed()

    async def look(self) -> bool:
        """Probe once. Return True if the path of an egress IP is found closed or open."""
        before = {identity: path.reason for identity, path in self._paths.items() if path.reason}
        try:
            await self._round()
            self._untested, self._failed_rounds = "", 0
        except (OSError, KernelError) as error:
            self._failed_rounds += 1
            if self._failed_rounds > MISSES:
                self._paths.clear()
            self._untested = f"the path of packets through this node cannot be tested: {error}"
        after = {identity: path.reason for identity, path in self._paths.items() if path.reason}
        for words in set(after.values()).difference(before.values()):
            log.warning("%s", words)
        return after != before

    async def _round(self) -> None:
        plan = self._state.applied
        if plan is None or plan.me is None:
            return
        able = [egress for egress in plan.egress_ips if plan.node in egress.eligible]
        wanted = {
            egress: path_faults.probes(plan, egress, self._exits.leading_out(egress)) for egress in able
        }
        self._paths = {e.id: self._paths.get(e.id, _Path()) for e, probes in wanted.items() if probes}
        everything = [
            probe for probes in wanted.values() for probe in (*probes, *path_faults.large(plan, probes))
        ]
        if not everything:
            return
        self._interval = max(MIN_INTERVAL_S, len(everything) * SHARE_S)
        passing = await self._threads.run(self._probe.passing, plan.me.address, everything)
        if plan is not self._state.applied:
            # The rules may have been replaced meanwhile.
            return
        for egress, probes in wanted.items():
            if probes:
                await self._judge(_Trial(plan, plan.me.address, egress, probes, passing))

    async def _judge(self, trial: _Trial) -> None:
        """Take in how the probes of an egress IP have fared."""
        path, now = self._paths[trial.egress.id], asyncio.get_running_loop().time()
        path.missed = path.missed + 1 if trial.lost else 0
        path.missed_large = path.missed_large + 1 if trial.lost_large and not trial.lost else 0
        if not trial.lost:
            path.reason, path.looked_at = "", -AGAIN_S
        if not trial.lost and not trial.lost_large:
            self._paths[trial.egress.id] = _Path()
        if path.missed >= MISSES and now >= path.looked_at + AGAIN_S:
            await self._find_cause(trial, path)
        elif path.missed_large >= MISSES and now >= path.measured_at + AGAIN_S:
            path.measured_at = now
            size = await self._threads.run(
                self._probe.largest, trial.node_address, trial.probes[0], trial.plan.mtu
            )
            path.problem = path_faults.too_small(trial.egress, size, trial.plan.mtu)

    async def _find_cause(self, trial: _Trial, path: _Path) -> None:
        lost = trial.lost[0]
        dropped: Dropped | None = await self._threads.run(
            self._probe.dropped_by, trial.node_address, lost, trial.egress.device
        )
        if await self._threads.run(self._probe.passing, trial.node_address, [lost]):
            # The rule has gone. What the trace shows last is our own rule that takes the probe.
            path.missed = 0
            return
        words = path_faults.reason(trial.egress, lost, dropped)
        # A probe that did not enter the tunnel says nothing about the packets of other nodes.
        # On a busy machine the trace may have come too late, so it is made once more.
        sure = dropped is not None or path.problem == words
        path.reason, path.problem = (words, "") if dropped else ("", words)
        path.measured_at = -AGAIN_S
        path.looked_at = asyncio.get_running_loop().time() if sure else -AGAIN_S


@dataclass(frozen=True)
class _Trial:
    """One round of probes for one egress IP."""

    plan: Plan
    node_address: str
    egress: PlanEgressIP
    probes: tuple[TunnelProbe, ...]
    passing: frozenset[TunnelProbe]

    @property
    def lost(self) -> list[TunnelProbe]:
        """Return the probes that did not get through."""
        return [probe for probe in self.probes if probe not in self.passing]

    @property
    def lost_large(self) -> bool:
        """Return True if the probe of the tunnel's full size did not get through."""
        return not self.passing.issuperset(path_faults.large(self.plan, self.probes))
