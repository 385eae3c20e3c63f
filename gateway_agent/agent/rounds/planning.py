"""Plan this node: collect the inputs of a plan, and leave out objects that cannot be planned."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cni import plan as plans
from cni.plan import Plan, PodIdentity

from ...config import AgentConfig
from ...manifests.model import Inventory, Node
from ...policy import keeper_config, node_addresses, planner, underlay
from ...policy.egress_node import readiness
from ...policy.kept_results import Kept
from ...policy.pods.selection import Selection
from ...policy.quarantine import Quarantine
from ..inputs.lease_client import LeaseClient
from ..pods.records import Pods
from ..ports import Interfaces, Kernel, Threads
from ..state import NodeState

log = logging.getLogger(__name__)
MAX_ROUTE_LOOKUPS = 32
"""Largest number of nodes whose route is looked up, to know the interfaces below the tunnels: there may be thousands.
"""


@dataclass(frozen=True)
class LastPlan:
    """The last plan with its inputs: at rest, each round has the same inputs again."""

    inventory: Inventory
    previous: Plan | None
    others: tuple[object, ...]
    """The other inputs of the plan; compared by value, because each round reads them anew."""
    planned: planner.Planned

    def of(self, inventory: Inventory, previous: Plan | None, others: tuple[object, ...]) -> bool:
        """Return True if these inputs are those of the last plan."""
        return self.inventory is inventory and self.previous is previous and self.others == others


class Planning:
    """The only writer of ``NodeState.facts``.

    Reading interfaces and planning run in other threads: both take tens of milliseconds on a large node.
    """

    def __init__(
        self,
        config: AgentConfig,
        state: NodeState,
        interfaces: Interfaces,
        kernel: Kernel,
        threads: Threads,
        leases: LeaseClient,
        pods: Pods,
    ) -> None:
        self._config = config
        self._state = state
        self._interfaces = interfaces
        self._kernel = kernel
        self._threads = threads
        self._leases = leases
        self._pods = pods
        self._quarantine = Quarantine()
        self._last: LastPlan | None = None
        self._addresses_of_others = Kept(self._others)
        self._prefixes_never_sent = Kept(self._never_sent)
        self._reading = asyncio.Lock()

    def usable(self, inventory: Inventory) -> Inventory:
        """Return the inventory without the objects that cannot be planned."""
        return self._quarantine.without_found(inventory)

    def known(self, inventory: Inventory) -> Inventory:
        """Return the inventory without objects that cannot be planned, and with the nodes' own addresses only."""
        plan = self._state.plan
        return node_addresses.own_only(self.usable(inventory), self._leases.masters(plan), plan)

    def fence_devices(self, plan: Plan) -> tuple[str, ...]:
        """Return the interfaces with the fence."""
        return keeper_config.fence_devices(plan, self._state.facts, self._pods.interfaces())

    async def read_interfaces(self) -> bool:
        """Read the node's interfaces. Return True if a fact has changed."""
        # One read at a time: the last started read counts.
        async with self._reading:
            inventory = self._state.inventory
            known = self.known(inventory) if inventory else Inventory()
            facts = await self._threads.run(self._read, self._pods.interfaces(), known)
            changed = facts != self._state.facts
            self._state.facts = facts
            return changed

    async def plan(self, inventory: Inventory) -> planner.Planned:
        """Return the plan of an inventory. Raises any exception that an object causes which parsing has accepted."""
        return await self._threads.run(self._quarantine.build, inventory, self._attempt())

    async def search(self, inventory: Inventory) -> None:
        """Find the objects that cannot be planned, and leave them out of later plans.

        Raises what planning does if none of the objects is the cause. May take seconds.
        """
        attempt = partial(
            in_full,
            partial(self._read, self._pods.interfaces()),
            self._attempt(),
            self._pods.of_all(),
            self._kernel.render,
            self.fence_devices,
        )
        await self._threads.run(self._quarantine.search, inventory, attempt)

    def _read(
        self, pod_interfaces: Collection[str], inventory: Inventory
    ) -> dict[str, readiness.InterfaceFacts]:
        others = self._addresses_of_others(inventory.nodes)
        return self._interfaces.read(inventory.virtual_addresses, pod_interfaces, others)

    def _others(self, nodes: tuple[Node, ...]) -> tuple[str, ...]:
        others = (node for node in nodes if node.name != self._config.node_name)
        return tuple(address for node in others for address in node.addresses)

    def _attempt(self) -> Callable[[Inventory], planner.Planned]:
        """Return a function from an inventory to its plan, with all other inputs fixed, for another thread."""
        plan, facts = self._state.plan, self._state.facts
        masters, isolated, shown = (
            self._leases.masters(plan),
            self._leases.isolated(plan),
            self._leases.shown(),
        )
        pods, pod_interfaces = self._pods.of_all(), self._pods.interfaces()

        def attempt(inventory: Inventory) -> planner.Planned:
            known = node_addresses.own_only(inventory, masters, plan)
            mtu = self._config.tunnel_mtu or self._tunnel_mtu(known.nodes, plan, facts)
            settings = self._settings(mtu, known)
            others = facts, masters, pods(known), isolated, pod_interfaces, shown
            last = self._last
            if last is not None and last.of(inventory, plan, (settings, *others)):
                return last.planned
            planned = planner.build(
                known, settings, facts, masters, plan, others[2],
                isolated=isolated, pod_interfaces=pod_interfaces, shown=shown,
            )  # fmt: skip
            self._last = LastPlan(inventory, plan, (settings, *others), planned)
            return planned

        return attempt

    def never_sent(self, inventory: Inventory) -> Collection[str]:
        """Return the prefixes that are steered to no gateway."""
        return self._prefixes_never_sent(self.known(inventory))

    def _never_sent(self, known: Inventory) -> tuple[str, ...]:
        return tuple(planner.never_sent(known, self._config.cluster_cidrs))

    def _settings(self, mtu: int, inventory: Inventory) -> planner.Settings:
        by_name = any(each.routing and each.routing.table_name for each in inventory.gateways)
        return settings(self._config, mtu, self._interfaces.table_names() if by_name else {})

    def _tunnel_mtu(
        self, nodes: Sequence[Node], plan: Plan | None, facts: Mapping[str, readiness.InterfaceFacts]
    ) -> int:
        egress = {name for egress in (plan.egress_ips if plan else ()) for name in egress.eligible}
        others = underlay.others(nodes, self._config.node_name, egress, MAX_ROUTE_LOOKUPS)
        own = underlay.own_address(nodes, self._config.node_name)
        return readiness.tunnel_mtu(facts, own, self._interfaces.leaving(others))


def settings(config: AgentConfig, mtu: int, tables: Mapping[str, int]) -> planner.Settings:
    """Return the settings of a plan. ``mtu``: of the tunnel devices, bytes. ``tables``: numbers by name."""
    return planner.Settings(
        node=config.node_name,
        mask=config.mark_mask,
        port=config.tunnel_port,
        cluster_port=config.cluster_port,
        sets_port=config.sets_port,
        mtu=mtu,
        cluster_cidrs=config.cluster_cidrs,
        tables=tables,
    )


def in_full(
    read: Callable[[Inventory], object],
    attempt: Callable[[Inventory], planner.Planned],
    pods: Callable[[Inventory], Iterable[PodIdentity]],
    render: Callable[[Plan, Sequence[str]], object],
    devices: Callable[[Plan], Sequence[str]],
    inventory: Inventory,
) -> planner.Planned:
    """Read interfaces, plan, and do every later step that changes nothing: an object may fail only there.

    ``render``: returns the rules for a plan and the devices with the fence.
    """
    read(inventory)
    planned = attempt(inventory)
    plans.dumps(planned.plan)
    render(planned.plan, devices(planned.plan))
    selection = Selection(planned.plan)
    for pod in pods(inventory):
        selection.group_for(pod)
    return planned
