"""Collect the current problems of this node for its operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..config import AgentConfig
from ..lease.ipc import FOREIGN_KEY, LATE, LOG, KeeperState
from ..manifests.model import Fault, Inventory, Problem
from ..policy import underlay
from ..policy.pods import pod_sources
from ..show import status
from .inputs.lease_client import LeaseClient
from .pods.adoption import Adoption
from .pods.containers import Containers
from .pods.records import Pods
from .pods.tagging import Tagging
from .ports import ClusterKey, Interfaces
from .rounds.conntrack_sync import ConntrackSync
from .rounds.planning import Planning
from .state import NodeState

DAEMON = "lease daemon"
"""Source of the problems of the lease daemon."""


@dataclass(frozen=True)
class Problems:
    """The collector of the problems of every part. ``others``: problems from outside of the agent."""

    config: AgentConfig
    state: NodeState
    planning: Planning
    interfaces: Interfaces
    cluster_key: ClusterKey
    leases: LeaseClient
    connection_sync: ConntrackSync
    pods: Pods
    tagging: Tagging
    adoption: Adoption
    containers: Containers
    others: tuple[Callable[[], tuple[Problem, ...]], ...] = ()

    def collect(self) -> tuple[Problem, ...]:
        """Return all problems."""
        state = self.state
        known = self.planning.known(state.inventory) if state.inventory else Inventory()
        trouble = (Problem("kernel", "", state.trouble, kind=Fault.KERNEL),) if state.trouble else ()
        sync = (Problem("connectionSync", "", text) for text in self.connection_sync.troubles())
        return (
            *map(_of_an_object, (*known.problems, *state.plan_problems)),
            *trouble,
            *self._of_refusals(known),
            *self._of_the_daemon(),
            *self._of_the_address(known),
            *self.cluster_key.problems(),
            *self._of_conflicts(),
            *sync,
            *pod_sources.bridged_only(self.pods.selected(), state.facts),
            *self.pods.problems,
            *self.tagging.problems,
            *self.adoption.problems,
            *self.containers.problems,
            *(problem for other in self.others for problem in other()),
        )

    def _of_refusals(self, known: Inventory) -> Iterator[Problem]:
        """Yield a problem for each egress IP with an object that the kernel refuses: its packets are dropped here."""
        sources = {gateway.name: gateway.source for gateway in known.gateways}
        plan = self.state.plan
        for egress in plan.egress_ips if plan else ():
            if error := self.state.refused.get(egress.id):
                name = f"{egress.gateway} {egress.address}".strip()
                message = f"the kernel refuses this node a part of {name}, so its packets are dropped: {error.message}"
                yield Problem(sources.get(egress.gateway, ""), "", message, error.hint, Fault.KERNEL)

    def _of_the_daemon(self) -> list[Problem]:
        found = daemon_problems(self.leases.state)
        if self.leases.failure:
            hint = f"see {self.config.run_dir / LOG}"
            found.append(Problem(DAEMON, "", self.leases.failure, hint, Fault.LEASE_DAEMON))
        return found

    def _of_the_address(self, known: Inventory) -> list[Problem]:
        own = underlay.own_address(known.nodes, self.config.node_name)
        if not own or self.interfaces.is_local(own):
            return []
        message = f"no interface of this machine has {own}, the address of node {self.config.node_name}"
        addresses = ((node.name, address) for node in known.nodes for address in node.addresses)
        rightful = next((found for found in addresses if self.interfaces.is_local(found[1])), None)
        if rightful:
            message += f": it has {rightful[1]}, that of node {rightful[0]}"
        hint = "nodeName must be this machine's, and the inventory must have its address"
        return [Problem("nodeName", "", message, hint)]

    def _of_conflicts(self) -> list[Problem]:
        hint = "another machine has the address: find it by its MAC"
        conflicts = self.leases.state.conflicts if self.leases.state else ()
        return [
            Problem("virtual address", "", status.conflict_text(c), hint, Fault.CONFLICT) for c in conflicts
        ]


def daemon_problems(state: KeeperState | None) -> list[Problem]:
    """Return the problems that the lease daemon reports."""
    if state is None:
        return []
    kinds = {LATE: Fault.LATE, FOREIGN_KEY: Fault.KEY}
    of = {text: kinds.get(kind, Fault.LEASE_DAEMON) for text, kind in state.kinds.items()}
    return [Problem(DAEMON, "", text, kind=of.get(text, Fault.LEASE_DAEMON)) for text in state.problems]


def _of_an_object(problem: Problem) -> Problem:
    """Return a problem of the objects or of their plan with that kind, unless it has a kind already."""
    return replace(problem, kind=Fault.OBJECT) if problem.kind is Fault.OTHER else problem
