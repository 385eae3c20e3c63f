"""Probe the path of pods' packets through this node to the egress interface, including rules of other programs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cni.kernel.errors import KernelError
from cni.plan import Plan, PlanEgressIP

from ...manifests.model import Problem
from ...policy.egress_node import path_faults, path_state
from ...policy.egress_node.exit_paths import Found, Lookup
from ...policy.egress_node.path_faults import Dropped, TunnelProbe
from ...policy.egress_node.path_state import PathState, Todo
from ..ports import PathProbe, Threads
from ..state import NodeState
from .exit_checks import ExitChecks

MIN_INTERVAL_S = 1.0
"""Seconds between two rounds of probes."""
DOUBTFUL_INTERVAL_S = 0.2
"""Seconds until the next round if a probe did not get through."""
SHARE_S = 0.005
"""Seconds for each probe if there are many, so that they take at most a hundredth of a processor."""
Wanted = Mapping[PlanEgressIP, tuple[TunnelProbe, ...]]
"""Probes for each egress IP that this node can serve; none if there is nothing to probe."""
log = logging.getLogger(__name__)


class PathChecks:
    """Probes for all egress IPs that this node can serve, whether it is their master or not."""

    def __init__(self, state: NodeState, exits: ExitChecks, probe: PathProbe, threads: Threads) -> None:
        self._state = state
        self._exits = exits
        self._probe = probe
        self._threads = threads
        self._paths: dict[str, PathState | None] = {}
        """Paths by id of the egress IP; None: there is nothing to probe. An id that is missing is new."""
        self._probes: dict[str, _Probes] = {}
        """All probes by id of the egress IP."""
        self._untested = ""
        """The reason why no path can be tested."""
        self._failed_rounds = 0
        """Number of consecutive rounds that could not test: earlier results are kept for a few rounds."""
        self._lost: frozenset[TunnelProbe] = frozenset()
        """Probes of the last round that did not get through."""
        self._round_number = 0
        """Number of the current round."""
        self._interval = DOUBTFUL_INTERVAL_S
        self._looking = asyncio.Lock()

    def reason(self, egress: PlanEgressIP) -> str:
        """Return why packets for this egress IP do not get through; empty if they do, or if that is unknown."""
        path = self._paths.get(egress.id)
        return path.reason if path else ""

    def pending(self, egress: PlanEgressIP, master: str) -> str:
        """Return why this node should not take over though its path is not known to be closed; empty if it may.

        ``master``: name of the node that serves the egress IP now; empty if none does.
        """
        path = self._paths.get(egress.id, PathState())
        serving = self._state.plan is not None and master == self._state.plan.node
        return path.pending(serving, bool(master)) if path else ""

    def problems(self) -> tuple[Problem, ...]:
        """Return problems of paths that are not closed, and the reason why paths cannot be tested."""
        found = dict.fromkeys([self._untested, *(path.problem for path in self._paths.values() if path)])
        return tuple(Problem("path", "", message) for message in found if message)

    async def run(self, changed: Callable[[], None]) -> None:
        """Probe until cancelled. ``changed`` is called if the path of an egress IP has become closed or open."""
        await self._threads.run(self._probe.remove_trace)
        while True:
            doubtful = any(path and path.doubtful for path in self._paths.values())
            await asyncio.sleep(DOUBTFUL_INTERVAL_S if doubtful else self._interval)
            if await self.look():
                changed()

    async def prove_new(self) -> None:
        """Probe now if the path of an egress IP was never probed: an open one must not wait for a round."""
        plan = self._state.applied
        if plan is None or plan.isolated:
            return
        for egress, probes in self._wanted(plan).items():
            if egress.id not in self._paths or (probes and self._paths[egress.id] is None):
                await self.look()
                return

    async def look(self) -> bool:
        """Probe once. Return True if the path of an egress IP has become closed or open."""
        async with self._looking:
            before = self._findings()
            try:
                await self._round()
                self._untested, self._failed_rounds = "", 0
            except (OSError, KernelError) as error:
                self._failed_rounds += 1
                if self._failed_rounds > path_state.MISSES:
                    self._paths = {each: path and path_state.UNTESTABLE for each, path in self._paths.items()}
                self._untested = f"the path of packets through this node cannot be tested: {error}"
            after = self._findings()
            for message in {reason for reason, *_ in after.values()}.difference(
                reason for reason, *_ in before.values()
            ):
                if message:
                    log.warning("%s", message)
            return after != before

    def _findings(self) -> dict[str, tuple[str, bool, bool]]:
        """Return the findings that readiness depends on."""
        return {each: (path.reason, path.proven, path.held) for each, path in self._paths.items() if path}

    def _wanted(self, plan: Plan) -> Wanted:
        able = [egress for egress in plan.egress_ips if plan.node in egress.eligible]
        self._probes = {egress.id: self._of(plan, egress) for egress in able}
        return {
            egress: path_faults.of_round(self._probes[egress.id].probes, self._lost, self._round_number)
            for egress in able
        }

    def _of(self, plan: Plan, egress: PlanEgressIP) -> _Probes:
        """Return the probes of an egress IP; the last ones if their inputs have not changed."""
        leading, last = self._exits.leading_out(egress), self._probes.get(egress.id)
        if last is not None and last.plan is plan and last.leading is leading:
            return last
        return _Probes(plan, leading, path_faults.probes(plan, egress, leading))

    async def _round(self) -> None:
        plan = self._state.applied
        if plan is None or plan.me is None or plan.isolated:
            return
        wanted = self._wanted(plan)
        self._paths = {
            egress.id: (self._paths.get(egress.id) or PathState()) if probes else None
            for egress, probes in wanted.items()
        }
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
        self._lost, self._round_number = frozenset(everything) - passing, self._round_number + 1
        for egress, probes in wanted.items():
            if probes:
                trial = _Trial(plan, plan.me.address, egress, probes, passing)
                self._paths[egress.id] = await self._judged(trial, self._paths[egress.id] or PathState())

    async def _judged(self, trial: _Trial, path: PathState) -> PathState:
        """Return the state of an egress IP's path after a round of probes."""
        path, todo = path_state.after_round(path, bool(trial.lost), trial.lost_large, _now())
        if todo is Todo.FIND_CAUSE:
            return await self._find_cause(trial, path)
        if todo is Todo.MEASURE:
            probe, mtu = trial.probes[0], trial.plan.mtu
            size = await self._threads.run(self._probe.largest, trial.node_address, probe, mtu)
            return replace(path, problem=path_faults.too_small(trial.egress, size, mtu))
        return path

    async def _find_cause(self, trial: _Trial, path: PathState) -> PathState:
        lost, egress = trial.lost[0], trial.egress
        try:
            dropped: Dropped | None = await self._threads.run(
                self._probe.dropped_by, trial.node_address, lost, egress.device
            )
        except (OSError, KernelError) as error:
            # Packets are lost, even if the trace does not show which rule drops them.
            return path_state.closed(path, path_faults.unknown_cause(egress, lost, str(error)), _now())
        if await self._threads.run(self._probe.passing, trial.node_address, [lost]):
            # The rule has gone: the trace ends at our own rule, which takes the probe.
            return replace(path, missed=0)
        message = path_faults.reason(egress, lost, dropped)
        # A probe that did not enter the tunnel says nothing about the packets of other nodes.
        return (path_state.closed if dropped else path_state.untested)(path, message, _now())


def _now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(frozen=True)
class _Probes:
    """All probes of an egress IP, and their inputs."""

    plan: Plan
    leading: Mapping[Lookup, Found]
    probes: tuple[TunnelProbe, ...]


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
