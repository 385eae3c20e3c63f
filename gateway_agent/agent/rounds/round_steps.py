"""Carry out the steps of one round on a node.

The order is an invariant: guards before devices, devices before routes, routes before tags, and the plan on disk before
the kernel follows it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cni.plan import Plan

from ...manifests.model import Inventory
from ..inputs.lease_client import LeaseClient
from ..plan_file import PlanFile
from ..pods.adoption import Adoption
from ..pods.records import Pods
from ..pods.tagging import Tagging
from ..ports import ClusterKey, Threads
from ..state import NodeState
from .conntrack_gc import ConntrackCollector
from .conntrack_sync import ConntrackSync
from .daemon_config import DaemonConfig
from .exit_checks import ExitChecks
from .node_kernel import NodeKernel
from .path_checks import PathChecks
from .planning import Planning
from .pod_guard import PodGuard
from .reconciler import Round, Step
from .worker_checks import WorkerChecks

log = logging.getLogger(__name__)
HANDOVER_TIMEOUT_S = 1.0
"""Seconds that the lease daemon gets to hand over egress IPs that this node can no longer serve."""


@dataclass(frozen=True)
class RoundSteps:
    """The parts that a round uses. The only writer of ``NodeState.plan`` and ``NodeState.plan_problems``."""

    node: str
    key_file: Path
    state: NodeState
    cluster_key: ClusterKey
    planning: Planning
    pods: Pods
    tagging: Tagging
    adoption: Adoption
    guard: PodGuard
    plan_file: PlanFile
    daemon_config: DaemonConfig
    leases: LeaseClient
    kernel: NodeKernel
    threads: Threads
    connections: ConntrackCollector
    connection_sync: ConntrackSync
    exits: ExitChecks
    paths: PathChecks
    worker_checks: WorkerChecks
    request: Callable[[], None]
    """Requests another round."""

    def steps(self) -> tuple[Step, ...]:
        """Return the steps of a round in their order."""
        return (
            ("make the cluster key", self._make_key),
            ("read the interfaces", self._read_interfaces),
            ("look for the guard", self._look_for_guard),
            ("find the pods of the node", self._find_pods),
            ("plan", self._plan),
            ("let answers pass the check of sources", self._check_by_mark),
            ("release the leases of egress IPs that this node cannot serve", self._release),
            ("reconcile the kernel with the plan", self._bring_kernel),
            ("delete connections that have another source now", self._collect_connections),
            ("tag the interfaces of pods", self._retag),
            ("guard what has no tag", self._guard),
            ("drop the policy sets that no tag needs", self._drop_unused_sets),
            ("follow up with probes and conntrackd", self._follow_up),
            ("look up the routes of packets", self._check_exits),
        )

    async def _make_key(self, work: Round) -> None:
        """Create the cluster key if this node is alone. In a cluster, a key of its own would exclude the node."""
        # All nodes count, even those that cannot be planned.
        alone = len(work.inventory.nodes) == 1 and work.inventory.nodes[0].name == self.node
        if alone and self.cluster_key.make():
            log.warning("%s was missing and has been made: copy it to every node", self.key_file)

    async def _read_interfaces(self, work: Round) -> None:
        await self.planning.read_interfaces()

    async def _look_for_guard(self, work: Round) -> None:
        """Check for the guard before pods are found: each pod's record says whether the guard held it."""
        await self.guard.look()

    async def _find_pods(self, work: Round) -> None:
        """Read the records of the plugin, and find pods that ran before the plugin was installed."""
        self.pods.reread()
        known = self.planning.known(work.inventory)
        if known.knows_pods and (again := await self.adoption.follow(known)):
            asyncio.get_running_loop().call_later(again, self.request)

    async def _plan(self, work: Round) -> None:
        planned = await self.planning.plan(work.inventory)
        state = self.state
        state.plan_problems = planned.problems
        work.previous = state.plan
        if work.previous is not None and state.applied is None:
            self.kernel.assume(work.previous, self.planning.fence_devices(work.previous))
        # An equal plan stays the same object, so data derived from it is kept.
        equal = state.plan is not None and planned.plan == state.plan
        if not equal:
            # Written before it is applied: if this process dies in between, the next one numbers the same way.
            await self.threads.run(self.plan_file.write, planned.plan)
            state.plan = planned.plan
        work.plan = state.plan
        # The newest objects are compared and the mark is removed without an await in between.
        if work.inventory is state.inventory:
            self.plan_file.mark_current()

    async def _check_by_mark(self, work: Round) -> None:
        """Set ``src_valid_mark`` before the lease daemon gets the plan: without it, this node would hand over."""
        if await self.exits.check_by_mark(_plan(work)):
            # The facts of the interfaces are older than this change.
            await self.planning.read_interfaces()

    async def _release(self, work: Round) -> None:
        """Release egress IPs that this node can no longer serve before the kernel follows: it still forwards."""
        self.daemon_config.send()
        lost = [egress.id for egress in _plan(work).egress_ips if self.node not in egress.eligible]
        await self.leases.released(lost, self.node, HANDOVER_TIMEOUT_S)

    async def _bring_kernel(self, work: Round) -> None:
        before, plan = self.state.applied or work.previous, _plan(work)
        work.interim = await self.kernel.reconcile(plan, work.previous, self.planning.fence_devices(plan))
        if work.interim is not None:
            self.connections.follow(before, plan)

    async def _collect_connections(self, work: Round) -> None:
        await self.connections.collect(_plan(work))

    async def _retag(self, work: Round) -> None:
        # By the newest objects, which have the labels of a pod that was registered meanwhile.
        newest: Inventory = self.state.inventory or work.inventory
        await self.tagging.retag_all(_plan(work), self.planning.usable(newest))
        self.daemon_config.send_if_pods_moved()

    async def _guard(self, work: Round) -> None:
        """Set the guard after the tags: it must cut off no known pod."""
        await self.guard.follow(_plan(work), work.inventory)

    async def _drop_unused_sets(self, work: Round) -> None:
        plan = _plan(work)
        if work.interim is not None and work.interim != plan:
            await self.kernel.drop_unused_sets(plan, self.planning.fence_devices(plan))

    async def _follow_up(self, work: Round) -> None:
        self.exits.follow(_plan(work), self.daemon_config.send)
        self.connection_sync.follow(_plan(work))

    async def _check_exits(self, work: Round) -> None:
        """Look up routes after the kernel has followed the plan, so that its answers are by the routes of packets."""
        plan, known = _plan(work), self.planning.known(work.inventory)
        never = self.planning.never_sent(work.inventory)
        await self.exits.look_up(plan, known, never)
        await self.worker_checks.look_up(plan, known, never)
        await self.paths.prove_new()


def _plan(work: Round) -> Plan:
    """Return the plan of the round; the step that makes the plan comes before all steps that use it."""
    assert work.plan is not None
    return work.plan
