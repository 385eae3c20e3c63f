"""Take snapshots of the agent for status, metrics, the page and the cluster."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping

from ..histogram import Histogram
from ..show.metrics.families import ChangeCount, Observation
from ..show.snapshot import NodeSnapshot
from .inputs.lease_client import LeaseClient
from .pods.adoption import Adoption
from .pods.containers import Containers
from .pods.records import Pods
from .problems import Problems
from .rounds.planning import Planning
from .state import NodeState

POLL_INTERVAL_S = 1.0
"""Seconds between two reads of the changes of masters, of which the lease daemon keeps the last hundred."""


class Observer:
    """Reader of the parts of an agent; it changes none.

    ``unready``: returns why the socket cannot serve calls though the agent could; empty if it can. ``calls``: returns
    the durations of CNI calls by command and error code.
    """

    def __init__(
        self,
        state: NodeState,
        planning: Planning,
        pods: Pods,
        adoption: Adoption,
        containers: Containers,
        leases: LeaseClient,
        problems: Problems,
        unready: Callable[[], str],
        calls: Callable[[], Mapping[tuple[str, int], Histogram]],
    ) -> None:
        self._state = state
        self._planning = planning
        self._pods = pods
        self._adoption = adoption
        self._containers = containers
        self._leases = leases
        self._problems = problems
        self._unready = unready
        self._calls = calls
        self._changes = ChangeCount(time.time())

    def snapshot(self) -> NodeSnapshot | None:
        """Return a snapshot of the agent's state; None before there is a plan."""
        plan, config = self._state.applied or self._state.plan, self._problems.config
        if plan is None or self._state.inventory is None:
            return None
        return NodeSnapshot(
            plan=plan,
            inventory=self._planning.known(self._state.inventory),
            attachments=tuple(self._pods.records.values()),
            lease_daemon=self._leases.state,
            cluster_cidrs=config.cluster_cidrs,
            problems=self._problems.collect(),
            settled=self._leases.settled,
            unready=self.unready(),
            drained=self._leases.drained,
            beside={found.pod: found for found in self._containers.beside},
            started_beside=self._adoption.beside,
        )

    def observe(self) -> Observation:
        """Return the observation for metrics, health checks and the page."""
        self._changes.observe(self._leases.state)
        return Observation(
            self._problems.config.node_name,
            self.snapshot(),
            self.unready(),
            self._leases.drained,
            self._changes.totals(),
            self._changes.silences(),
            calls=self._calls(),
            applied_at=self._state.applied_at,
            rounds_failed=self._state.rounds_failed,
        )

    def unready(self) -> str:
        """Return why this node's agent is not ready; empty if it is."""
        if self._leases.stopping:
            return "the agent is stopping"
        starting = "the agent is starting" if self._state.applied is None else ""
        return self._state.trouble or starting or self._unready()

    def unguarded(self) -> str:
        """Return the text that the guard of unknown pods is missing; empty if the guard is set or off."""
        missing = self._problems.config.guard and self._state.guard_since == math.inf
        return "the guard of unknown pods is not set" if missing else ""

    async def count_changes(self) -> None:
        """Count changes of masters until cancelled, even if no client reads the count."""
        while True:
            self._changes.observe(self._leases.state)
            await asyncio.sleep(POLL_INTERVAL_S)
