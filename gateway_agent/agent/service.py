"""The service: one event loop that owns all state, and turns what it hears into what should be.

What comes in: the store's inventory, the lease keeper's state, kernel events, CNI calls. What goes out: the plan
(to the kernel and to ``plan.json``), tags, and the keeper's configuration. Everything may be done twice; after a
fault at any point the next round repairs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from cni import plan as plans
from cni.kernel.errors import KernelError
from cni.kernel.netlink.monitor import Event
from cni.plan import Plan, PlanEgressIP, PodIdentity

from ..adapters import cluster_key, interfaces
from ..adapters.icmp_probe import UpstreamProbe
from ..adapters.kernel import Kernel, texts
from ..adapters.lease_client_ipc import KeeperClient
from ..config import AgentConfig
from ..container_engines.stores import Engines
from ..lease.ipc import LOG, KeeperState
from ..manifests.model import Inventory, Node, Problem
from ..manifests.store import Store
from ..policy import keeper_config, node_addresses, planner, pod_sources, readiness, underlay
from ..policy.quarantine import Quarantine
from ..policy.selection import Selection
from ..show import status
from .adoption import Adoption
from .conntrack_gc import ConntrackCollector
from .conntrack_sync import ConntrackSync
from .containers import Containers
from .lease_client import LeaseClient
from .plan_file import PlanFile
from .pods import Pods, same_for

log = logging.getLogger(__name__)
RETRY_S = 1.0
"""Seconds until a round that failed is tried again."""
HANDOVER_TIMEOUT_S = 1.0
"""Seconds that the lease keeper gets to hand over what this node can serve no longer."""
MAX_ROUTE_LOOKUPS = 32
"""Nodes to which a route is asked for, to know the interfaces below the tunnels: a cluster may have thousands."""
RESYNC_INTERVAL_S = 5.0
"""Seconds until a round without a cause: for what nobody tells, such as what the plugin alone has done."""


class Agent:
    """``plan`` is what should stand, ``applied`` what the kernel was last brought to."""

    def __init__(self, config: AgentConfig, store: Store, kernel: Kernel, keeper: KeeperClient) -> None:
        self.config = config
        self.store = store
        self.kernel = kernel
        self.inventory: Inventory | None = None
        self._plan_file = PlanFile(config.run_dir)
        self.plan: Plan | None = self._plan_file.read()
        self.applied: Plan | None = None
        self.pods = Pods(config.run_dir, kernel)
        self.adoption = Adoption(self.pods, kernel)
        self.containers = Containers(
            Engines(config.podman, config.containerd), self.pods, lambda: self.inventory
        )
        self.problems: tuple[Problem, ...] = ()
        self.trouble = ""
        self._facts: dict[str, readiness.InterfaceFacts] = {}
        self._probes: dict[str, tuple[UpstreamProbe, asyncio.Task[None]]] = {}
        self._work = asyncio.Event()
        self.leases = LeaseClient(config, keeper, self._work.set)
        self.tables = ConntrackSync(config.run_dir, self._work.set)
        self.flows = ConntrackCollector(kernel, config.mark_mask)
        self._rounds = asyncio.Condition()
        self._begun = self._ended = 0
        self._looks: set[asyncio.Task[None]] = set()
        self._quarantine = Quarantine()
        self._followed: Inventory | None = None
        self._following: Inventory | None = None
        """Of the round that is going on."""
        self._fenced: tuple[str, ...] = ()
        self._kernel_in_doubt = True
        self._carried: frozenset[str] = frozenset()
        """By which egress IPs pods went when the keeper was told last."""

    # --- what comes in -----------------------------------------------------------------------------------------

    async def follow_store(self) -> None:
        """Takes each inventory of the store. Ends with its task."""
        async for inventory in self.store.inventories():
            self._take(inventory)

    async def take_edits(self, namespace: str, name: str, uid: str) -> None:
        """Looks at the store now: a pod may start before the watch has told of it, or of the edit that selects it.

        Goes on where the caller is cancelled: a thread of the store may be reading, and cannot be broken off.
        Raises :class:`gateway_agent.manifests.store.NotKnown` and OSError.
        """
        look = asyncio.create_task(self._look_at_store(namespace, name, uid))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)
        await asyncio.shield(look)

    async def _look_at_store(self, namespace: str, name: str, uid: str) -> None:
        inventory = await self.store.for_pod(namespace, name, uid)
        if inventory is not None:
            self._take(inventory)

    @property
    def busy_with(self) -> str:
        """What a call that takes too long waits for, in words."""
        if self.trouble:
            return self.trouble
        return "the store does not answer in time" if self._looks else "the agent is busy with edits"

    def known(self, inventory: Inventory) -> Inventory:
        """Return what the store says, without what cannot be planned and with the nodes' own addresses only."""
        planned = self._quarantine.without_found(inventory)
        return node_addresses.own_only(planned, self.leases.masters(self.plan), self.plan)

    def _take(self, inventory: Inventory) -> None:
        if inventory == self.inventory:
            return
        for problem in inventory.problems:
            if self.inventory is None or problem not in self.inventory.problems:
                log.warning("%s", problem)
        self._mark_plan_outdated()
        self.inventory = inventory
        self._work.set()

    def _mark_plan_outdated(self) -> None:
        """Mark ``plan.json`` before an edit counts: this process may end before the edit is in the plan."""
        try:
            self._plan_file.mark_outdated()
        except OSError as error:
            # The next round fails at the plan itself if this lasts, and status says so.
            log.error("%s", error)

    async def follow_keeper(self) -> None:
        """Takes each state of the lease keeper. Ends with its task."""
        await self.leases.follow(self._name)

    async def follow_containers(self) -> None:
        """Looks at the container engines of this node again and again. Ends with its task."""
        await self.containers.run(self._work.set)

    @property
    def keeper_state(self) -> KeeperState | None:
        return self.leases.state

    def kernel_changed(self, events: Collection[Event]) -> None:
        """Takes what the kernel tells. An interface that went down counts at once, the rest in the next round."""
        devices = {event.device for event in events}
        if any(event.kind == "overrun" for event in events):
            devices |= {"", *self._facts}
        if any(event.ours for event in events):
            self._kernel_in_doubt = True
            self._work.set()
        gateways = self.inventory.gateways if self.inventory else ()
        named = {name for gateway in gateways for name in (gateway.interface, *gateway.interfaces)}
        led_elsewhere = any(event.kind == "uplink" for event in events)
        if led_elsewhere or devices & ((self._facts.keys() - self.pods.interfaces()) | named):
            self._look_at_interfaces()
        if devices & self.pods.interfaces():
            # Perhaps somebody else's hand on a tag.
            self._work.set()

    def _look_at_interfaces(self) -> None:
        facts = (
            self._read_facts(self.inventory)
            if self.inventory
            else interfaces.read((), self.pods.interfaces())
        )
        if facts != self._facts:
            self._facts = facts
            self._send_keeper_config()
            self._work.set()

    # --- rounds ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Works round after round until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESYNC_INTERVAL_S):
                    await self._work.wait()
            self._work.clear()
            self._begun += 1
            self._following = self.inventory
            try:
                await self._round()
                self._say("")
            except Exception as error:
                if not isinstance(error, (KernelError, OSError)):
                    log.exception("a round failed")
                    error = RuntimeError(f"the agent failed: {type(error).__name__}: {error}")
                self._say(str(error))
                asyncio.get_running_loop().call_later(RETRY_S, self._work.set)
            else:
                self._following = None
            async with self._rounds:
                self._ended = self._begun
                self._rounds.notify_all()
            try:
                self._send_keeper_config()
            except Exception as error:
                # A failed round may have left what cannot be told either; the next one is on its way.
                log.exception("the lease keeper could not be told")
                self._say(f"the agent failed: {type(error).__name__}: {error}")

    async def next_round(self) -> None:
        """Asks for a round and waits until one that began after this call has ended."""
        async with self._rounds:
            wanted = self._begun + 1
            self._work.set()
            await self._rounds.wait_for(lambda: self._ended >= wanted)

    @property
    def in_doubt(self) -> bool:
        """Return True if the kernel may not be what the plan says: a tag that is set now could lead nowhere good."""
        return self.applied is None or self._kernel_in_doubt

    def outdated_for(self, pod: PodIdentity) -> bool:
        """Return True if the kernel may not do for this pod what the newest known objects ask for.

        A round in progress counts as well as the last one that ended: the plan may be of either.
        """
        if self._followed is None or self.inventory is None:
            return True
        followed = (self._followed, self._following or self._followed)
        return not all(same_for(pod, inventory, self.inventory) for inventory in followed)

    async def _round(self) -> None:
        inventory = self.inventory
        if inventory is None:
            return
        try:
            await self._look(inventory)
            await self._follow(inventory, self._quarantine.build(inventory, self._attempt()))
        except (KernelError, OSError):
            raise
        except Exception:
            # Perhaps because of one object. The search may take long: not in the event loop.
            log.exception("what is known cannot be planned")
            facts = partial(self._facts_for, self.pods.interfaces())
            thorough = partial(_in_full, facts, self._attempt(), self.pods.of_all(), self._fence_devices)
            await asyncio.to_thread(self._quarantine.search, inventory, thorough)
            await self._look(inventory)
            await self._follow(inventory, self._quarantine.build(inventory, self._attempt()))

    async def _look(self, inventory: Inventory) -> None:
        """Look at what a plan needs beside the inventory."""
        known = self.known(inventory)
        # Of all nodes: one that cannot be planned is a node all the same.
        self._make_key(inventory)
        self._facts = self._read_facts(inventory)
        self.pods.reread()
        if known.knows_pods and (again := await self.adoption.follow(known)):
            asyncio.get_running_loop().call_later(again, self._work.set)

    async def _follow(self, inventory: Inventory, planned: planner.Planned) -> None:
        self.problems = planned.problems
        previous = self.plan
        if previous is not None and self.applied is None:
            self.kernel.assume_applied(previous, self._fence_devices(previous))
        # An equal plan stays the same object: what is worked out of it is kept.
        plan = self.plan if planned.plan == self.plan and self.plan is not None else planned.plan
        if plan is not self.plan:
            # Written before it is applied: should this process die in between, the next one numbers the same way.
            self._plan_file.write(plan)
            self.plan = plan
        if inventory is self.inventory:
            self._plan_file.mark_current()
        # Before the kernel follows: what this node can serve no longer, it should let go of while it still forwards.
        self._send_keeper_config()
        lost = [e.id for e in plan.egress_ips if plan.node not in e.eligible]
        await self.leases.released(lost, plan.node, HANDOVER_TIMEOUT_S)
        await self._apply(plan, previous, inventory)
        self._followed = inventory
        self._follow_probes()
        self.tables.follow(plan)

    def _read_facts(self, inventory: Inventory) -> dict[str, readiness.InterfaceFacts]:
        return self._facts_for(self.pods.interfaces(), self.known(inventory))

    def _facts_for(
        self, pod_interfaces: Collection[str], inventory: Inventory
    ) -> dict[str, readiness.InterfaceFacts]:
        others = (node for node in inventory.nodes if node.name != self.config.node_name)
        nodes = [address for node in others for address in node.addresses]
        return interfaces.read(inventory.virtual_addresses, pod_interfaces, nodes)

    def _make_key(self, inventory: Inventory) -> None:
        """Make the cluster key if this node is alone. In a cluster a key of its own would shut the node out."""
        alone = [node.name for node in inventory.nodes] == [self.config.node_name]
        if alone and cluster_key.make(self.config.key_file):
            log.warning("%s was missing and has been made: copy it to every node", self.config.key_file)

    def _attempt(self) -> Callable[[Inventory], planner.Planned]:
        """Return what makes a plan of an inventory, with all else as it is now: it may run in another thread."""
        masters, plan, facts, pods = (
            self.leases.masters(self.plan),
            self.plan,
            self._facts,
            self.pods.of_all(),
        )
        isolated, shown, pod_interfaces = (
            self.leases.isolated(plan),
            self.leases.shown(),
            self.pods.interfaces(),
        )

        def attempt(inventory: Inventory) -> planner.Planned:
            known = node_addresses.own_only(inventory, masters, plan)
            return planner.build(
                known, self._settings(known), facts, masters, plan, pods(known),
                isolated=isolated, pod_interfaces=pod_interfaces, shown=shown,
            )  # fmt: skip

        return attempt

    async def _apply(self, plan: Plan, previous: Plan | None, inventory: Inventory) -> None:
        between = plan
        devices = self._fence_devices(plan)
        if plan != self.applied or self._kernel_in_doubt or devices != self._fenced:
            self._fenced = devices
            tags = await self.kernel.tagged()
            between = planner.with_sets_in_use(plan, previous, frozenset(tags.values()))
            await self._reconcile_kernel(between)
            before, self.applied = self.applied or previous, plan
            self.flows.follow(before, plan)
        await self.flows.collect(plan)
        # By the labels as they are now: a call that came meanwhile has gone by them.
        await self.pods.retag(plan, self._quarantine.without_found(self.inventory or inventory))
        self.pod_led()
        if between != plan:
            await self._reconcile_kernel(plan)

    async def _reconcile_kernel(self, plan: Plan) -> None:
        self._kernel_in_doubt = False
        try:
            for change in await self.kernel.reconcile(plan, self._fence_devices(plan)):
                log.info("kernel: %s", change)
        except KernelError:
            self._kernel_in_doubt = True
            raise

    def _fence_devices(self, plan: Plan) -> tuple[str, ...]:
        return keeper_config.fence_devices(plan, self._facts, self.pods.interfaces())

    def _settings(self, inventory: Inventory) -> planner.Settings:
        return planner.Settings(
            node=self.config.node_name,
            mask=self.config.mark_mask,
            port=self.config.tunnel_port,
            cluster_port=self.config.cluster_port,
            mtu=self.config.tunnel_mtu or self._tunnel_mtu(inventory.nodes),
            cluster_cidrs=self.config.cluster_cidrs,
        )

    def _tunnel_mtu(self, nodes: Sequence[Node]) -> int:
        egress = {name for egress in (self.plan.egress_ips if self.plan else ()) for name in egress.eligible}
        others = underlay.others(nodes, self.config.node_name, egress, MAX_ROUTE_LOOKUPS)
        own = underlay.own_address(nodes, self.config.node_name)
        return readiness.tunnel_mtu(self._facts, own, interfaces.leaving(others))

    # --- what goes out -----------------------------------------------------------------------------------------

    def _send_keeper_config(self) -> None:
        if self.plan is None or self.inventory is None:
            return
        if self._followed is None and not self.trouble and not self.leases.stopping:
            # A keeper that outlived the last agent serves on. That this one has not looked yet is no reason to let go.
            return
        tunnels = {egress.device for egress in self.applied.egress_ips} if self.applied else set()
        # What it serves it knows best itself.
        behind = {
            e.id: self.tables.behind() for e in self.plan.egress_ips if e.sync and not self.plan.serves(e)
        }
        self._carried = self.pods.carried()
        self.leases.send_config(self.plan, self._unready(), behind, tunnels, self._carried, self.inventory)

    def pod_led(self) -> None:
        """Take in that pods may go by other egress IPs than before: their masters wait for this node at a handover."""
        if self.pods.carried() != self._carried:
            self._send_keeper_config()

    def _unready(self) -> dict[str, str]:
        """For each egress IP that this node is eligible for, why it is not ready; empty where it is."""
        if self.plan is None or self.inventory is None:
            return {}
        gateways = {gateway.name: gateway for gateway in self.inventory.gateways}
        chosen = underlay.family(self.known(self.inventory).nodes)
        answers = {}
        for egress in self.plan.egress_ips:
            if self.plan.node in egress.eligible:
                gateway = gateways.get(egress.gateway)
                interface = gateway.interface if gateway and gateway.interface else egress.interface
                probe = self._probes.get(interface)
                silent = probe[0].silent if probe else ()
                named = gateway.interfaces if gateway else ()
                unready = readiness.unready(egress, interface, self._facts, silent, named, chosen)
                if not unready and self.keeper_state is not None:
                    unready = self.keeper_state.unfit
                if not unready and not self._stands(egress):
                    unready = self.trouble or "the kernel is not set up yet"
                answers[egress.id] = unready
        return answers

    def _stands(self, egress: PlanEgressIP) -> bool:
        """Whether the kernel already does for this egress IP what the plan says."""
        applied = self.applied.egress_ips if self.applied else ()
        return any(
            (e.id, e.slot, e.interface, e.source, e.source6)
            == (egress.id, egress.slot, egress.interface, egress.source, egress.source6)
            for e in applied
        )

    def _follow_probes(self) -> None:
        """One upstream probe for each egress interface in use."""
        assert self.plan is not None
        wanted = {egress.interface for egress in self.plan.egress_ips if egress.interface}
        if not self.config.upstream:
            wanted = set()
        for interface in set(self._probes) - wanted:
            self._probes.pop(interface)[1].cancel()
        for interface in wanted - set(self._probes):
            probe = UpstreamProbe(
                interface,
                self.config.upstream,
                self.config.health_interval,
                self.config.health_misses,
                self._send_keeper_config,
            )
            self._probes[interface] = (probe, asyncio.create_task(probe.run()))

    async def stop(self) -> None:
        """Hands every lease over and lets the keeper end. The data path stays: selected pods never leak."""
        self.leases.stopping = True
        self._send_keeper_config()
        await self.leases.ended()
        await self.tables.stop()

    def write_again(self) -> None:
        """Write what the run directory had: somebody has emptied it. Raises OSError."""
        # Until the next round nothing says whether the plan is the newest.
        self._plan_file.mark_outdated()
        self._work.set()
        if self.plan is not None:
            self._plan_file.write(self.plan)
        for record in tuple(self.pods.records.values()):
            self.pods.put(record)

    # --- what is asked -----------------------------------------------------------------------------------------

    def all_problems(self) -> tuple[Problem, ...]:
        """Everything the owner should mend, as it stands now."""
        known = self.known(self.inventory) if self.inventory else Inventory()
        found = [*known.problems, *self.problems]
        found += [Problem("kernel", "", self.trouble)] if self.trouble else []
        found += [
            Problem("keeper", "", text) for text in (self.keeper_state.problems if self.keeper_state else ())
        ]
        if self.leases.failure:
            why = f"the lease keeper ended by itself, another one took its place: {self.leases.failure}"
            found.append(Problem("keeper", "", why, f"see {self.config.run_dir / LOG}"))
        own = underlay.own_address(known.nodes, self.config.node_name)
        if own and not interfaces.is_local(own):
            words = f"no interface of this machine has {own}, the address of node {self.config.node_name}"
            hint = "nodeName must be this machine's, and the inventory must have its address"
            found.append(Problem("nodeName", "", words, hint))
        found += cluster_key.problems(self.config.key_file)
        for path in self.config.accept_key_files:
            found += cluster_key.problems(path, accepted=True)
        hint = "another machine has the address: find it by its MAC"
        conflicts = self.keeper_state.conflicts if self.keeper_state else ()
        found += [Problem("virtual address", "", status.conflict_words(c), hint) for c in conflicts]
        found += [Problem("connectionSync", "", text) for text in self.tables.troubles()]
        found += pod_sources.bridged_only(self.pods.selected(), self._facts)
        found += (*self.pods.problems, *self.adoption.problems, *self.containers.problems)
        return tuple(found)

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.error("%s", trouble)
        self.trouble = trouble

    def _name(self, identity: str) -> str:
        for egress in self.plan.egress_ips if self.plan else ():
            if egress.id == identity:
                return f"{egress.gateway} {egress.address}".strip()
        return identity


def _in_full(
    look: Callable[[Inventory], object],
    attempt: Callable[[Inventory], planner.Planned],
    pods: Callable[[Inventory], Iterable[PodIdentity]],
    devices: Callable[[Plan], Sequence[str]],
    inventory: Inventory,
) -> planner.Planned:
    """Look at interfaces, plan, and do all with the plan that changes nothing: an object may be at fault only there."""
    look(inventory)
    planned = attempt(inventory)
    plans.dumps(planned.plan)
    texts(planned.plan, devices(planned.plan))
    selection = Selection(planned.plan)
    for pod in pods(inventory):
        selection.group_for(pod)
    return planned
