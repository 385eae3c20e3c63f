"""Check that packets of this node's pods get into the tunnels, and answers out of them, by route look-ups."""

from __future__ import annotations

from collections.abc import Collection

from cni.plan import Plan

from ...manifests.model import Inventory, Problem
from ...policy.pods import worker_paths
from ..pods.records import Pods
from ..ports import Interfaces, Threads


class WorkerChecks:
    """Look-ups for the egress IPs that pods of this node use, in each round. Their number is bounded."""

    def __init__(self, pods: Pods, interfaces: Interfaces, threads: Threads) -> None:
        self._pods = pods
        self._interfaces = interfaces
        self._threads = threads
        self._problems: tuple[Problem, ...] = ()

    async def look_up(self, plan: Plan, inventory: Inventory, never: Collection[str]) -> None:
        """Look up the routes of packets and answers. ``never``: prefixes that are steered to no gateway."""
        tagged = {address for pod in self._pods.all() if pod.record.group for address in pod.record.addresses}
        asked = worker_paths.lookups(plan, inventory.policies, never, tagged)
        answers = await self._threads.run(self._interfaces.look_up, sorted(asked)) if asked else {}
        self._problems = tuple(worker_paths.problems(plan, asked, answers))

    def problems(self) -> tuple[Problem, ...]:
        """Return the problems that the last look-ups showed."""
        return self._problems
