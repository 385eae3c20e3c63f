"""The outside world of the agent, one protocol for each part of it.

The classes behind them are in :mod:`gateway_agent.adapters` and are named in ``gateway_agent/__main__.py`` only; a test
puts others in their place. An ``async`` method never blocks the event loop. A plain method is quick, with two
exceptions that are marked as blocking: the agent calls these in another thread.
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
        """Call ``changed`` in the event loop with each batch of events, from now on."""

    def watch_stale(self, found: Callable[[], None]) -> None:
        """Call ``found`` for each packet of a stale connection, from now on. Raises OSError."""

    def assume_applied(self, plan: Plan, devices: Sequence[str]) -> None:
        """Take the rules of this plan for those that an earlier process has written."""

    def render(self, plan: Plan, devices: Sequence[str]) -> tuple[str, ...]:
        """Return the rules of a plan as nft texts; change nothing. ``devices``: those that the fence guards."""

    async def reconcile(self, plan: Plan, devices: Sequence[str]) -> Outcome:
        """Bring the kernel to the plan. A refused change of one egress IP is in the result and raises nothing."""

    async def missing(self, plan: Plan) -> tuple[str, ...]:
        """Return in words each part of the node's path that differs from the plan."""

    async def host_veths(self, netns: str, names: Iterable[str]) -> HostVeths:
        """Return the host-side veths of a pod. ``names``: the interfaces that the CNI result lists."""

    async def leading(self, addresses: Sequence[str]) -> dict[str, str]:
        """Return the host-side veth that leads to each address, as far as one is known."""

    async def tag(self, device: str, group: int) -> None:
        """Set an interface's group."""

    async def tag_of(self, device: str) -> int | None:
        """Return an interface's group; None if there is no such interface."""

    async def tagged(self) -> dict[str, int]:
        """Return the group of each interface whose group is in our range."""

    async def guard(self, text: str) -> tuple[str, ...]:
        """Bring the tables of the guard to these rules. Return each change in words."""

    async def guarded(self) -> bool:
        """Return True if a table of the guard is there."""

    async def unjudged(self) -> tuple[str, ...]:
        """Return the names of the veths in group 0 whose peer is in another network namespace."""

    async def forget_connections(self, stale: Mapping[str, Callable[[str], bool]]) -> None:
        """Delete the connections, TCP aside, of each source to each remote address for which its function holds."""

    async def forget_pod(self, address: str) -> None:
        """Delete all connections of a pod's address."""

    async def forget_stale(self, mask: int) -> None:
        """Delete the connections that a rule has marked as stale. ``mask``: of our marks."""

    async def flush_by_source(self, address: str, mask: int) -> None:
        """Delete the connections that came out of the tunnels and left by this address."""

    async def set_tcp_liberal(self, address: str, mask: int) -> None:
        """Let TCP connections that left by this address go on behind another master, and come back."""


class Interfaces(Protocol):
    """The node's interfaces and routes, read only."""

    def read(
        self, virtual: Collection[str], without: Collection[str], nodes: Iterable[str]
    ) -> dict[str, InterfaceFacts]:
        """Return the facts of each interface but those in ``without``. Blocks: it reads all routes.

        ``virtual``: the addresses of all gateways. ``nodes``: the addresses of the other nodes.
        """

    def leaving(self, destinations: Iterable[str]) -> frozenset[str]:
        """Return the interfaces by which packets to these addresses leave. Blocks: one question for each address."""

    def is_local(self, address: str) -> bool:
        """Return True if an interface of this machine has the address."""

    def look_up(self, lookups: Iterable[Lookup]) -> dict[Lookup, Found]:
        """Return how the kernel would route such packets, as far as it answers. Blocks: one question for each."""

    def table_names(self) -> dict[str, int]:
        """Return the numbers of the node's routing tables by name. Blocks: it reads files."""

    def check_by_mark(self, names: Collection[str]) -> bool:
        """Have sources checked by packet mark on these interfaces, and on no others because of us. Blocks.

        Return True if a setting has changed. Raises OSError if the run directory takes no record of it.
        """


class LeaseDaemon(Protocol):
    """The lease daemon of this node, which outlives the agent."""

    @property
    def failure(self) -> str:
        """Return why no daemon serves, or why one ended some minutes ago; else an empty text."""

    def send(self, config: KeeperConfig) -> None:
        """Send what is to be in force from now on."""

    def states(self) -> AsyncIterator[KeeperState]:
        """Yield each state of the daemon. Start the daemon if none answers. Ends with its task."""

    async def keys(self) -> OwnKeys | None:
        """Return the keys in use; None if the daemon is too old to say. Raises OSError and ValueError."""

    async def ended(self) -> None:
        """Wait until a daemon that was stopped has handed everything over, for some seconds at most."""


class ClusterKey(Protocol):
    """The key files of the configuration."""

    def make(self) -> bool:
        """Make the key if there is none, and return True if it was made. Raises OSError."""

    def problems(self) -> tuple[Problem, ...]:
        """Return the faults of the key file and of those that are accepted beside it."""


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
    """True: ask on the link who has each address; False: send echo requests."""


class Probe(Protocol):
    """Asks addresses again and again whether they answer."""

    @property
    def silent(self) -> tuple[str, ...]:
        """Return the addresses that do not answer."""

    async def run(self) -> None:
        """Ask again and again. Ends with its task."""


class PathProbe(Protocol):
    """Sends packets through this node's own tunnels. All methods block."""

    def remove_trace(self) -> None:
        """Remove from the kernel what a search for the cause has left that was broken off."""

    def answers(self) -> Answers:
        """Return how many answers have come in and gone on. Raises ``KernelError``."""

    def passing(self, node_address: str, probes: Sequence[TunnelProbe]) -> frozenset[TunnelProbe]:
        """Return those that get as far as the egress interface. Raises OSError."""

    def largest(self, node_address: str, probe: TunnelProbe, limit: int) -> int:
        """Return the size of the largest packet that gets through, ``limit`` at most, in bytes. Raises OSError."""

    def dropped_by(self, node_address: str, probe: TunnelProbe, device: str) -> Dropped | None:
        """Return where a probe is dropped that comes out of ``device``; None if it does not come out of it.

        Raises OSError and ``KernelError``.
        """


class PodProber(Protocol):
    """Sends packets as pods of this node would."""

    def send(self, probes: Sequence[PodProbe]) -> dict[PodProbe, PodAnswer]:
        """Return the answer to each probe. Blocks for some seconds at most. Raises OSError and ``KernelError``."""


class ConnectionSearch(Protocol):
    """Finds connections through egress IPs. All methods block."""

    def open(self, plan: Plan, attachments: Iterable[Attachment], query: Query) -> list[Sighting]:
        """Return what the connection table has of the connections that a question may be about.

        Raises ``KernelError``.
        """

    def logged(self, path: Path, keep: int, query: Query) -> list[Sighting]:
        """Return what this node's log has of them. Raises OSError."""

    def in_journal(self, query: Query) -> list[Sighting]:
        """Return what this node's journal has of them, if the log is there. Raises OSError."""


class ConnectionSync(Protocol):
    """The conntrackd processes of this node."""

    def set(self, configurations: Mapping[str, str]) -> None:
        """Run these configurations, by name, and no others. Raises ValueError."""

    def serve(self, serving: bool) -> None:
        """Take in whether this node is master of an egress IP whose connections are synced."""

    def state(self) -> Mapping[str, SyncState]:
        """Return the state of each process by its name."""

    def interface_index(self, name: str) -> int:
        """Return the number of an interface; 0 if there is none of this name."""

    async def stop(self) -> None:
        """End all processes."""


class Engines(Protocol):
    """The container engines of this node, read only. Both methods raise ``EngineError``."""

    async def find(self, container_id: str) -> Container | None:
        """Return the container of a CNI call; None if no engine has it."""

    async def listing(self) -> Listing | None:
        """Return the containers that may run beside the plugin; None if there is no such engine."""


class Threads(Protocol):
    """Runs what blocks, or computes for long, beside the event loop."""

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function in another thread and return its result. Raises what it raises."""


@dataclass(frozen=True)
class Ports:
    """All of them. A function makes a part that calls back: it gets the callback."""

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
    """Makes a probe; the callback is called if an address falls silent or answers again."""
    connection_sync: Callable[[Callable[[], None]], ConnectionSync]
    """Makes the processes' supervisor; the callback is called with each change of a state."""
    channel: Channel | None = None
    """None: this node has no connections with the agents of other nodes."""
    manifest_files: SetFiles | None = None
    """None: this node gives and takes no manifests."""
