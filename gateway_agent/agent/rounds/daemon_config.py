"""Decide the configuration of the lease daemon, and whether this node is ready to serve."""

from __future__ import annotations

from cni.plan import Plan, PlanEgressIP

from ...manifests.model import Inventory
from ...policy import underlay
from ...policy.egress_node import readiness
from ..inputs.lease_client import LeaseClient
from ..pods.records import Pods
from ..state import NodeState
from .conntrack_sync import ConntrackSync
from .exit_checks import ExitChecks
from .path_checks import PathChecks
from .planning import Planning


class DaemonConfig:
    """The sender of the lease daemon's configuration."""

    def __init__(
        self,
        state: NodeState,
        pods: Pods,
        planning: Planning,
        leases: LeaseClient,
        connection_sync: ConntrackSync,
        exits: ExitChecks,
        paths: PathChecks,
    ) -> None:
        self._state = state
        self._pods = pods
        self._planning = planning
        self._leases = leases
        self._connection_sync = connection_sync
        self._exits = exits
        self._paths = paths
        self._carried: frozenset[str] = frozenset()
        """Egress IPs that pods used when the last configuration was sent."""

    def send(self) -> None:
        """Send the configuration, if there is a plan and a round has ended since the start."""
        state, leases = self._state, self._leases
        if state.plan is None or state.inventory is None:
            return
        if state.followed is None and not state.trouble and not leases.stopping:
            # A daemon that outlived the last agent keeps serving, also before the first round of this agent.
            return
        # This node sends nothing into the tunnels of other egress IPs.
        tunnels = {egress.device for egress in state.applied.outgoing} if state.applied else set()
        # The master itself has the connections of its egress IPs.
        behind = {
            e.id: self._connection_sync.behind()
            for e in state.plan.egress_ips
            if e.sync and not state.plan.serves(e)
        }
        self._carried = self._pods.carried()
        unready = self._unready(state.plan, state.inventory)
        leases.send_config(state.plan, unready, behind, tunnels, self._carried, state.inventory)

    def send_if_pods_moved(self) -> None:
        """Send the configuration if pods use other egress IPs: their masters wait for this node at a handover."""
        if self._pods.carried() != self._carried:
            self.send()

    def _unready(self, plan: Plan, inventory: Inventory) -> dict[str, str]:
        """Return, for each egress IP that this node is eligible for, why this node is not ready; empty if it is."""
        gateways = {gateway.name: gateway for gateway in inventory.gateways}
        chosen = underlay.family(self._planning.known(inventory).nodes)
        answers = {}
        for egress in plan.egress_ips:
            if plan.node in egress.eligible:
                gateway = gateways.get(egress.gateway)
                interface = gateway.interface if gateway and gateway.interface else egress.interface
                unready = readiness.unready(
                    egress,
                    interface,
                    self._state.facts,
                    self._exits.silent_upstream(plan, egress),
                    gateway.interfaces if gateway else (),
                    chosen,
                    self._exits.silent_hops(plan, egress),
                    self._exits.path(egress) or self._paths.reason(egress),
                    gateway.routing if gateway else None,
                )
                if not unready and self._leases.state is not None:
                    unready = self._leases.state.unfit
                if not unready and egress.id in self._state.refused:
                    unready = str(self._state.refused[egress.id])
                if not unready and not self._is_applied(egress):
                    unready = self._state.trouble or "the kernel is not set up yet"
                if not unready:
                    unready = self._paths.pending(egress, self._master(egress))
                answers[egress.id] = unready
        return answers

    def _master(self, egress: PlanEgressIP) -> str:
        """Return the master by the lease daemon's state; before the first state, the last known one.

        Empty if the master is another node that is silent or not ready, and will soon be replaced.
        """
        daemon, state = self._leases.state, self._leases.of(egress.id)
        if daemon is None:
            return egress.master
        able = {daemon.node, *(each.node for each in daemon.members if each.alive and each.ready)}
        return state.master if state and state.master in able else ""

    def _is_applied(self, egress: PlanEgressIP) -> bool:
        """Return True if the kernel already matches the plan for this egress IP."""
        applied = self._state.applied.by_id.get(egress.id) if self._state.applied else None
        return applied is not None and _kernel_has(applied) == _kernel_has(egress)


def _kernel_has(egress: PlanEgressIP) -> tuple[object, ...]:
    """Return the properties of an egress IP that the kernel's objects depend on, except its master."""
    return egress.slot, egress.inlet, egress.interface, egress.source, egress.source6
