"""Protocols of the outside world of the agent, one for each part.

The implementations are in :mod:`gateway_agent.adapters`, and only ``gateway_agent/__main__.py`` names them; tests
substitute others. An ``async`` method never blocks the event loop. A plain method is fast unless its text says that it
blocks: the agent calls blocking methods in another thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from cni.calls.attachments import Attachment
from cni.kernel.errors import Outcome
from cni.kernel.netlink.links import HostVeths
from cni.kernel.netlink.monitor import Event
from cni.plan import Plan

from ..connection_log.sightings import Query, Sighting
from ..container_engines.documents import Container, Listing
from ..lease.ipc import KeeperConfig, KeeperState, OwnKeys
from ..manifests.model import Problem
from ..manifests.store import Store
from ..policy.egress_node.exit_paths import Found, Lookup
from ..policy.egress_node.path_faults import Answers, Dropped, TunnelProbe
from ..policy.egress_node.pod_probes import PodAnswer, PodProbe
from ..policy.egress_node.readiness import InterfaceFacts
from ..policy.egress_node.sync_groups import SyncState
from .set_ports import Channel, SetFiles

P = ParamSpec("P")
T = TypeVar("T")


class Kernel(Protocol):
    """The node's kernel. Changes take effect in the order of the calls. Methods raise ``KernelError``."""

    def watch(self, changed: Callable[[list[Event]], None]) -> None:
        """Call ``changed`` in the event loop, from now on, with each batch of events."""

    def watch_stale(self, found: Callable[[], None]) -> None:
        """Call ``found``, from now on, for each packet of a stale connection. Raises OSError."""

    def assume_applied(self, plan: Plan, devices: Sequence[str]) -> None:
        """Assume that an earlier process has written the rules of this plan."""

    def render(self, plan: Plan, devices: Sequence[str]) -> tuple[str, ...]:
        """Return the rules of a plan as nft texts; change nothing. ``devices``: those with the fence."""

    async def reconcile(self, plan: Plan, devices: Sequence[str]) -> Outcome:
        """Reconcile the kernel with the plan.

        A refused change for a single egress IP is in the result and raises nothing.
        """

    async def missing(self, plan: Plan) -> tuple[str, ...]:
        """Return a text for each part of the node's data path that differs from the plan."""

    async def host_veths(self, netns: str, names: Iterable[str]) -> HostVeths:
        """Return the host-side veths of a pod. ``names``: the interfaces that the CNI result lists."""

    async def leading(self, addresses: Sequence[str]) -> dict[str, str]:
        """Return the host-side veth that leads to each address, for the addresses with a known one."""

    async def tag(self, device: str, group: int) -> None:
        """Set an interface's group."""

    async def tag_of(self, device: str) -> int | None:
        """Return an interface's group; None if there is no such interface."""

    async def tagged(self) -> dict[str, int]:
        """Return the group of each interface whose group is in our range."""

    async def guard(self, text: str) -> tuple[str, ...]:
        """Reconcile the tables of the guard with these rules. Return a text for each change."""

    async def guarded(self) -> bool:
        """Return True if a table of the guard exists."""

    async def unjudged(self) -> tuple[str, ...]:
        """Return the names of the veths in group 0 whose peer is in another network namespace."""

    async def forget_connections(self, stale: Mapping[str, Callable[[str], bool]]) -> None:
        """Delete the connections, except TCP, of each source to the remote addresses that its function accepts."""

    async def forget_pod(self, address: str) -> None:
        """Delete all connections of a pod's address."""

    async def forget_stale(self, mask: int) -> None:
        """Delete the connections that a rule has marked as stale. ``mask``: of our marks."""

    async def flush_by_source(self, address: str, mask: int) -> None:
        """Delete the connections that came out of the tunnels and left by this address."""

    async def set_tcp_liberal(self, address: str, mask: int) -> None:
        """Set TCP connections that left by this address liberal, so that they survive another master, and a return."""


class Interfaces(Protocol):
    """The node's interfaces and routes, read only."""

    def read(
        self, virtual: Collection[str], without: Collection[str], nodes: Iterable[str]
    ) -> dict[str, InterfaceFacts]:
        """Return the facts of each interface that is not in ``without``. Blocks: it reads all routes.

        ``virtual``: the addresses of all gateways. ``nodes``: the addresses of the other nodes.
        """

    def leaving(self, destinations: Iterable[str]) -> frozenset[str]:
        """Return the interfaces by which packets to these addresses leave. Blocks: one look-up for each address."""

    def is_local(self, address: str) -> bool:
        """Return True if an interface of this machine has the address."""

    def look_up(self, lookups: Iterable[Lookup]) -> dict[Lookup, Found]:
        """Return how the kernel would route these packets; without those it does not answer.

        Blocks: one look-up for each.
        """

    def table_names(self) -> dict[str, int]:
        """Return the numbers of the node's routing tables by name. Blocks: it reads files."""

    def check_by_mark(self, names: Collection[str]) -> bool:
        """Turn on ``src_valid_mark`` for these interfaces, and off for others that the agent turned on. Blocks.

        Return True if a setting has changed. Raises OSError if the change cannot be recorded in the run directory.
        """


class LeaseDaemon(Protocol):
    """The lease daemon of this node, which outlives the agent."""

    @property
    def failure(self) -> str:
        """Return why no daemon serves, or why one ended within the last minutes; else an empty text."""

    def send(self, config: KeeperConfig) -> None:
        """Send the configuration that is in force from now on."""

    def states(self) -> AsyncIterator[KeeperState]:
        """Yield each state of the daemon until cancelled. Start the daemon if none answers."""

    async def keys(self) -> OwnKeys | None:
        """Return the keys in use; None if the daemon is too old to say. Raises OSError and ValueError."""

    async def ended(self) -> None:
        """Wait, for a few seconds at most, until a stopped daemon has handed every lease over."""


class ClusterKey(Protocol):
    """The key files of the configuration."""

    def make(self) -> bool:
        """Create the key if there is none; return True if it was created. Raises OSError."""

    def problems(self) -> tuple[Problem, ...]:
        """Return the problems of the key file and of the files of further accepted keys."""


@dataclass(frozen=True)
class ProbeTarget:
    """The target of a probe."""

    interface: str
    addresses: tuple[str, ...]
    mark: int = 0
    """Mark of the packets; 0: none."""
    source: str = ""
    """Source address of echo requests if the node has it; empty: the kernel chooses."""
    on_link: bool = False
    """True: probe each address on the link (ARP, ND); False: send echo requests."""


class Probe(Protocol):
    """A periodic probe of addresses."""

    @property
    def silent(self) -> tuple[str, ...]:
        """Return the addresses that do not answer."""

    async def run(self) -> None:
        """Probe periodically until cancelled."""


class PathProbe(Protocol):
    """Probes through this node's own tunnels. All methods block."""

    def remove_trace(self) -> None:
        """Remove the trace rules that an interrupted search has left in the kernel."""

    def answers(self) -> Answers:
        """Return the numbers of replies that have come in and that have reached a tunnel. Raises ``KernelError``."""

    def passing(self, node_address: str, probes: Sequence[TunnelProbe]) -> frozenset[TunnelProbe]:
        """Return the probes that reach the egress interface. Raises OSError."""

    def largest(self, node_address: str, probe: TunnelProbe, limit: int) -> int:
        """Return the size of the largest packet that gets through, bytes, at most ``limit``. Raises OSError."""

    def dropped_by(self, node_address: str, probe: TunnelProbe, device: str) -> Dropped | None:
        """Return where a probe out of ``device`` is dropped; None if the probe does not come out of the device.

        Raises OSError and ``KernelError``.
        """


class PodProber(Protocol):
    """Sender of packets with the path of this node's pods."""

    def send(self, probes: Sequence[PodProbe]) -> dict[PodProbe, PodAnswer]:
        """Return the answer to each probe. Blocks for a few seconds at most. Raises OSError and ``KernelError``."""


class ConnectionSearch(Protocol):
    """Search of connections through egress IPs. All methods block."""

    def open(self, plan: Plan, attachments: Iterable[Attachment], query: Query) -> list[Sighting]:
        """Return the entries of the connection table that match a query.

        Raises ``KernelError``.
        """

    def logged(self, path: Path, keep: int, query: Query) -> list[Sighting]:
        """Return the lines of this node's log that match. Raises OSError."""

    def in_journal(self, query: Query) -> list[Sighting]:
        """Return the entries of this node's journal that match, if the log is there. Raises OSError."""


class ConnectionSync(Protocol):
    """The conntrackd processes of this node."""

    def set(self, configurations: Mapping[str, str]) -> None:
        """Run one process for each of these configurations, by name, and no others. Raises ValueError."""

    def serve(self, serving: bool) -> None:
        """Note whether this node is master of an egress IP whose connections are synced."""

    def state(self) -> Mapping[str, SyncState]:
        """Return the state of each process by its name."""

    def interface_index(self, name: str) -> int:
        """Return the index of an interface; 0 if there is none of this name."""

    async def stop(self) -> None:
        """End all processes."""


class Engines(Protocol):
    """The container engines of this node, read only. Both methods raise ``EngineError``."""

    async def find(self, container_id: str) -> Container | None:
        """Return the container of a CNI call; None if no engine has it."""

    async def listing(self) -> Listing | None:
        """Return the containers that may run without the plugin; None if there is no such engine."""


class Threads(Protocol):
    """Runner of functions that block, or compute for long, in other threads."""

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function in another thread and return its result. Raises what it raises."""


@dataclass(frozen=True)
class Ports:
    """All ports. A part with a callback is created by a function, which gets the callback."""

    store: Store
    kernel: Kernel
    interfaces: Interfaces
    lease_daemon: LeaseDaemon
    cluster_key: ClusterKey
    engines: Engines
    threads: Threads
    path_probe: PathProbe
    pod_prober: PodProber
    connection_search: ConnectionSearch
    probe: Callable[[ProbeTarget, Callable[[], None]], Probe]
    """Creates a probe; the callback is called if an address falls silent or answers again."""
    connection_sync: Callable[[Callable[[], None]], ConnectionSync]
    """Creates the supervisor of the processes; the callback is called at each change of a state."""
    channel: Channel | None = None
    """None: this node has no connections with the agents of other nodes."""
    manifest_files: SetFiles | None = None
    """None: this node gives and takes no manifests."""
