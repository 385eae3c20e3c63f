"""The outside world of an agent, held at every point at which the agent waits for it: no clock, any order.

A :class:`Gates` collects those who wait. A test opens one after another, in the order that it chooses, and acts in
between: what a race needs a thousand runs for, happens at once and each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, TypeVar

from cni.kernel import ids
from cni.kernel.errors import KernelError, Outcome
from cni.kernel.netlink.links import HostVeths
from cni.kernel.netlink.monitor import Event
from cni.plan import Plan
from gateway_agent.adapters.kernel.kernel_thread import texts
from gateway_agent.agent.ports import Ports, ProbeTarget
from gateway_agent.container_engines.documents import Container, Listing
from gateway_agent.lease.ipc import KeeperConfig, KeeperState, OwnKeys
from gateway_agent.manifests.model import Inventory, Problem
from gateway_agent.manifests.store import Store
from gateway_agent.policy.egress_node.exit_paths import Found, Lookup
from gateway_agent.policy.egress_node.path_faults import Answers, Dropped, TunnelProbe
from gateway_agent.policy.egress_node.readiness import InterfaceFacts
from gateway_agent.policy.egress_node.sync_groups import SyncState

P = ParamSpec("P")
T = TypeVar("T")
SPINS = 50
"""Turns of the event loop after which everything that can go on has done so: no chain of tasks here is as long."""


class Gates:
    """Who waits, in the order of arrival."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, asyncio.Future[None]]] = []

    async def hold(self, name: str) -> None:
        """Wait until the test opens this gate."""
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((name, gate))
        await gate

    async def open(self, index: int) -> str:
        """Let one go on, until everything waits again. Returns its name."""
        name, gate = self.waiting.pop(index)
        # Who waited may have been cancelled.
        if not gate.done():
            gate.set_result(None)
        await settle()
        return name


class HeldClock(asyncio.SelectorEventLoop):
    """An event loop whose time stands until a test moves it."""

    now = 1000.0
    """Seconds."""

    def time(self) -> float:
        return self.now


async def settle() -> None:
    """Let everything run that waits for nothing outside."""
    for _ in range(SPINS):
        await asyncio.sleep(0)


@dataclass
class HeldKernel:
    """Interface groups and the last plan, as a kernel keeps them: no change is there before its gate is opened."""

    gates: Gates
    groups: dict[str, int] = field(default_factory=dict)
    plan: Plan | None = None
    guarding: str = ""
    named: bool = False
    """True if the kernel sees no network namespace of a pod."""

    async def host_veths(self, netns: str, names: Iterable[str]) -> HostVeths:
        await self.gates.hold("host_veths")
        return HostVeths(tuple(names), self.named)

    async def reconcile(self, plan: Plan, devices: Sequence[str]) -> Outcome:
        await self.gates.hold("reconcile")
        self.plan = plan
        return Outcome()

    async def tag(self, device: str, group: int) -> None:
        await self.gates.hold("tag")
        self.groups[device] = group

    async def tag_of(self, device: str) -> int | None:
        await self.gates.hold("tag_of")
        return self.groups.get(device, 0)

    async def tagged(self) -> dict[str, int]:
        # Read at the one moment, given at the next: what is listed may be old.
        found = {device: group for device, group in self.groups.items() if ids.is_own_group(group)}
        await self.gates.hold("tagged")
        return found

    def tag_on(self, device: str) -> int:
        """Return the interface's group; 0 if that says that no policy selects the pod."""
        group = self.groups.get(device, 0)
        return 0 if group == ids.GROUP_UNSELECTED else group

    async def guard(self, text: str) -> tuple[str, ...]:
        await self.gates.hold("guard")
        self.guarding = text
        return ()

    async def guarded(self) -> bool:
        return "hook" in self.guarding

    async def unjudged(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, group in self.groups.items() if not group))

    async def missing(self, plan: Plan) -> tuple[str, ...]:
        return ()

    async def leading(self, addresses: Sequence[str]) -> dict[str, str]:
        return {}

    async def forget_connections(self, stale: Mapping[str, Any]) -> None:
        await self.gates.hold("forget_connections")

    async def forget_pod(self, address: str) -> None:
        await self.gates.hold("forget_pod")

    async def forget_stale(self, mask: int) -> None:
        """Nothing is stale here."""

    async def flush_by_source(self, address: str, mask: int) -> None:
        """Nothing is shown here."""

    async def set_tcp_liberal(self, address: str, mask: int) -> None:
        """Nothing is served here."""

    def assume_applied(self, plan: Plan, devices: Sequence[str]) -> None:
        """No earlier process was here."""

    def render(self, plan: Plan, devices: Sequence[str]) -> tuple[str, ...]:
        """Return all rules: a bad object may show only there."""
        return texts(plan, devices)

    def watch(self, changed: Callable[[list[Event]], None]) -> None:
        """Report nothing: a test calls the agent."""

    def watch_stale(self, found: Callable[[], None]) -> None:
        """Report nothing."""


@dataclass
class HeldStore:
    """A store whose inventory a test edits.

    ``for_pod`` returns the inventory at the moment when its gate is opened, as a store that reads while others write.
    """

    gates: Gates
    inventory: Inventory

    async def inventories(self) -> AsyncIterator[Inventory]:
        last = None
        while True:
            if self.inventory is not last:
                last = self.inventory
                yield last
            await self.gates.hold("watch")

    async def for_pod(self, namespace: str, name: str, uid: str) -> Inventory | None:
        await self.gates.hold("for_pod")
        return self.inventory


@dataclass
class FakeDaemon:
    """A lease daemon that keeps what it is sent, and says what a test puts into it."""

    sent: list[KeeperConfig] = field(default_factory=list)
    news: asyncio.Queue[KeeperState] = field(default_factory=asyncio.Queue)
    failure: str = ""

    def send(self, config: KeeperConfig) -> None:
        self.sent.append(config)

    async def states(self) -> AsyncIterator[KeeperState]:
        while True:
            yield await self.news.get()

    async def keys(self) -> OwnKeys | None:
        return None

    async def ended(self) -> None:
        """Return at once: nothing is handed over."""


@dataclass
class FakeInterfaces:
    """The interfaces that a test says; ``before`` is called in the thread that reads them."""

    facts: dict[str, InterfaceFacts] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None
    routes: dict[str, Found] = field(default_factory=dict)
    """Routes by destination; if there are none, the kernel does not answer."""
    checked: set[str] = field(default_factory=set)
    """Interfaces whose sources are checked by mark."""
    local: Collection[str] | None = None
    """Addresses of this machine; None: every address is."""

    def read(
        self, virtual: Collection[str], without: Collection[str], nodes: Iterable[str]
    ) -> dict[str, InterfaceFacts]:
        self.before()
        return {
            name: replace(known, src_valid_mark=known.src_valid_mark or name in self.checked)
            for name, known in self.facts.items()
            if name not in without
        }

    def leaving(self, destinations: Iterable[str]) -> frozenset[str]:
        return frozenset(self.facts)

    def is_local(self, address: str) -> bool:
        return self.local is None or address in self.local

    def look_up(self, lookups: Iterable[Lookup]) -> dict[Lookup, Found]:
        return {each: self.routes[each.destination] for each in lookups if each.destination in self.routes}

    def table_names(self) -> dict[str, int]:
        return {"external": 500}

    def check_by_mark(self, names: Collection[str]) -> bool:
        changed, self.checked = self.checked != set(names), set(names)
        return changed


@dataclass
class HeldThreads:
    """What runs in another thread waits before it begins; then the event loop waits for it."""

    gates: Gates
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await self.gates.hold("thread")
        return self.pool.submit(function, *args, **kwargs).result()


class FakeKey:
    """Key files without a fault."""

    def make(self) -> bool:
        return False

    def problems(self) -> tuple[Problem, ...]:
        return ()


class NoEngines:
    """No container engine."""

    async def find(self, container_id: str) -> Container | None:
        return None

    async def listing(self) -> Listing | None:
        return None


class FakeSync:
    """Connection tables that need no process."""

    def __init__(self) -> None:
        self.configurations: Mapping[str, str] = {}

    def set(self, configurations: Mapping[str, str]) -> None:
        self.configurations = configurations

    def serve(self, serving: bool) -> None:
        """Nothing is synced."""

    def state(self) -> Mapping[str, SyncState]:
        return {}

    def interface_index(self, name: str) -> int:
        return 7

    async def stop(self) -> None:
        """No process runs."""


@dataclass
class FakeProbe:
    """A probe whose answers a test decides."""

    target: ProbeTarget
    changed: Callable[[], None]
    silent: tuple[str, ...] = ()

    async def run(self) -> None:
        await asyncio.Event().wait()


@dataclass
class FakePathProbe:
    """Probes of which a test says where they are dropped."""

    dropped: Dropped | None = None
    """Of every probe; None: all get through."""
    lost: bool = False
    """No probe gets through, and none comes out of its tunnel."""
    error: OSError | None = None
    traces: int = 0
    """Calls of :meth:`dropped_by`."""
    most: int = 65535
    """Bytes of the largest packet that gets through."""
    refused: KernelError | None = None
    """Of each search for the cause."""
    removals: int = 0
    """Calls of :meth:`remove_trace`."""

    seen: Answers = field(default_factory=lambda: Answers(0, 0))
    """Counters of answers."""

    def answers(self) -> Answers:
        return self.seen

    def remove_trace(self) -> None:
        self.removals += 1

    def passing(self, node_address: str, probes: Sequence[TunnelProbe]) -> frozenset[TunnelProbe]:
        if self.error:
            raise self.error
        if self.dropped or self.lost:
            return frozenset()
        return frozenset(probe for probe in probes if probe.bytes <= self.most)

    def largest(self, node_address: str, probe: TunnelProbe, limit: int) -> int:
        return min(self.most, limit)

    def dropped_by(self, node_address: str, probe: TunnelProbe, device: str) -> Dropped | None:
        self.traces += 1
        if self.refused:
            raise self.refused
        return self.dropped


def fakes(kernel: HeldKernel, store: Store, **others: Any) -> Ports:
    """Return an outside world of fakes; ``others`` take the place of some of them."""
    chosen: dict[str, Any] = {
        "interfaces": FakeInterfaces(), "lease_daemon": FakeDaemon(), "cluster_key": FakeKey(),
        "engines": NoEngines(), "probe": FakeProbe, "connection_sync": lambda changed: FakeSync(),
        "threads": HeldThreads(kernel.gates), "path_probe": FakePathProbe(),
        "pod_prober": None, "connection_search": None,
    }  # fmt: skip
    return Ports(store=store, kernel=kernel, **{**chosen, **others})
