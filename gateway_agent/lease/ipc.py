"""Messages between the agent and the lease daemon: newline-delimited JSON on ``keeper.sock``.

The keeper needs no file, no store and no configuration of its own: the agent sends a :class:`KeeperConfig`
whenever something in it has changed (and as a sign of life each second), and the daemon answers each
connection with a :class:`KeeperState` at once and after every change.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .limits import MAX_TUNNELS, Duration, Identity, KeyNumbers, Mask, Port, Seconds, Text, Vni
from .voting.quorum_view import Electorate
from .voting.voter_set import VoterSet

SOCKET = "keeper.sock"
LOG = "keeper.log"
"""The output of a background daemon: why the daemon ended, and messages that the daemon could not handle."""
LOCK = "keeper.lock"
"""Lock held by the only daemon of a run directory; the file contains the process id of the daemon."""
STAY = "--stay"
"""Option of a daemon that is not started by the agent: the daemon stays in the foreground, waits if another one runs
already, and needs no agent to start.
"""
WAIT = "--wait"
"""Option of a standby daemon: the daemon loads everything, and starts to work when it reads a line."""


class Peer(msgspec.Struct, frozen=True):
    """A node of the inventory."""

    name: str
    address: str
    """Address on which the node's lease daemon listens (UDP, the cluster port) and on which its tunnels end."""
    egress: bool
    """True if the ``nodeSelector`` of any gateway matches the node, which then sends heartbeats and can be master."""


class EgressIPSpec(msgspec.Struct, frozen=True):
    """An egress IP that this node may serve or follows."""

    id: str
    gateway: str
    address: str
    """The virtual address; empty in basic mode."""
    eligible: tuple[str, ...]
    """Names of the nodes that can be master, sorted."""
    ready: bool = False
    """True if *this* node can serve the egress IP now. False if it is not eligible."""
    reason: str = ""
    """The reason why this node is not ready."""
    shown: str = ""
    """The source address of packets outside while this node is master; empty if the node is not eligible."""
    interface: str = ""
    """The interface of the virtual address while this node is master; empty if there is none."""
    leaving: bool = False
    """True if this node is not ready because it is being drained: as master it hands over while it still forwards."""
    keeps: bool = False
    """True if this node may not take the egress IP over, but may stay master of it."""
    failback: bool = False
    """True if the egress IP returns, by handover, to the node that would serve it if no node had ever failed."""
    carries: bool = True
    """True if a pod of this node uses the egress IP, as far as the agent knows."""
    device: str = ""
    """The tunnel device whose next-hop neighbour entry the daemon sets to the master; empty: not created yet."""
    vni: int = 0
    """VNI of the tunnel. Like ``sync``, it is the same on all nodes."""
    sync: bool = False
    """``connectionSync``."""


class HandoverRequest(msgspec.Struct, frozen=True):
    """The request of an operator that the node ``to`` become master of an egress IP."""

    id: str
    to: str
    token: int
    """Unique number of this request: a request is carried out only once."""


class Tunnel(msgspec.Struct, frozen=True, array_like=True):
    """The properties of an egress IP that must be the same on all nodes."""

    id: Identity
    vni: Vni
    sync: bool


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """Settings of a node that must be the same on all nodes; see :mod:`.messages.agreement`. Also part of messages."""

    tunnel_port: Port
    duration_ns: Duration
    availability_first: bool
    cluster_cidrs: Text
    keys: KeyNumbers = ()
    """Fingerprints of the keys that the node accepts; the first is of the key that it signs with."""
    clock: Seconds = 0.0
    """The node's wall clock at the time of sending; 0: not known."""
    tunnels: Annotated[tuple[Tunnel, ...], msgspec.Meta(max_length=MAX_TUNNELS)] = ()
    """Tunnels of some of the node's egress IPs; each period sends the next part of them."""
    mark_mask: Mask = 0
    """``mark.mask`` of an egress node that syncs connections with their marks; otherwise 0."""


class PeerKey(msgspec.Struct, frozen=True):
    """The key that signed the last message of another node."""

    node: str
    fingerprint: str
    """16 hex digits; empty: the node's version does not name its key."""
    silent_ms: int = msgspec.field(name="last_heard_ms")
    known: bool = True
    """True if this node has the key; otherwise ``node`` was found by the source address of the message."""
    accepts: tuple[str, ...] | None = None
    """Fingerprints of the keys that the node says it accepts; None: the node has not said."""


class OwnKeys(msgspec.Struct, frozen=True):
    """Fingerprints of the keys of this node, and what this node knows of the keys of others."""

    signs: str
    accepts: tuple[str, ...]
    peers: tuple[PeerKey, ...] = msgspec.field(name="heard")


class KeeperConfig(msgspec.Struct, frozen=True):
    """The configuration of the lease daemon. ``peers`` includes this node."""

    node: str
    port: int
    key_file: str
    heartbeat_ns: int
    duration_ns: int
    availability_first: bool
    peers: tuple[Peer, ...]
    egress: tuple[EgressIPSpec, ...]
    stopping: bool = False
    """True if the service is being stopped: the daemon hands every lease over, informs the workers, then exits."""
    moves: tuple[HandoverRequest, ...] = ()
    published: VoterSet | None = None
    """The voter set that the cluster names; see :mod:`gateway_agent.kubernetes.voter_configmap`."""
    accept_key_files: tuple[str, ...] = ()
    """Files of further keys with which accepted messages may be signed."""
    facts: Facts | None = None
    """The settings of this node, without its keys, as they are sent to other nodes."""

    @property
    def electorate(self) -> Electorate:
        """Return the nodes that can vote, and the rules for few of them."""
        egress_nodes = tuple(sorted(peer.name for peer in self.peers if peer.egress))
        return Electorate(
            self.node,
            tuple(peer.name for peer in self.peers),
            egress_nodes,
            self.duration_ns,
            self.availability_first,
            self.published,
        )


class EgressState(msgspec.Struct, frozen=True):
    """An egress IP as this node sees it."""

    id: str
    master: str
    """Name of the master; empty: none known."""
    epoch: int
    since: float
    """Wall clock, seconds, when the master took over, as the master itself says; 0 if there is no master."""
    state: str
    """This node's role: ``master``, ``standby`` (could be master) or ``none``."""
    reason: str
    """The reason why there is no master, or why this node is not the master; empty if there is no problem."""
    shown: str = ""
    """The current source address of packets outside, as the master says; empty if there is none."""
    without_quorum: bool = msgspec.field(default=False, name="survivor")
    """True if the master holds the lease without a majority (two nodes only, or ``AvailabilityFirst``)."""
    margin_ms: int | None = None
    """The shortest remaining time of the lease at its last renewals, milliseconds; None: this node renews none."""


class MemberState(msgspec.Struct, frozen=True):
    """An egress node as this node sees it."""

    node: str
    alive: bool
    ready: bool
    reason: str
    silent_ms: int = msgspec.field(name="last_heard_ms")
    """Milliseconds since the node's last message; -1: there was none."""


class Change(msgspec.Struct, frozen=True):
    """A change of the master of an egress IP: another node, or none any more."""

    id: str
    before: str
    after: str
    epoch: int
    at: float
    """Time of the change by the wall clock, seconds."""
    silent_ms: int
    """Upper bound of the time in which no packet left by the egress IP: from the release by the previous master, or
    from the last message of a silent master, until the new master served. 0 for a planned handover, whose packets were
    queued.
    """
    reason: str
    planned: bool = False
    """True if the previous master has handed over to a node of its choice."""


class Conflict(msgspec.Struct, frozen=True):
    """Another machine on the LAN claims a virtual address."""

    id: str
    address: str
    mac: str
    interface: str
    since: float
    """Time of the first claim by the wall clock, seconds."""


class KernelFailures(msgspec.Struct, frozen=True):
    """The number of operations for a virtual address that the kernel has refused since the lease daemon started."""

    address: str
    """The virtual address; empty for a ticket, which counts for all addresses."""
    what: str
    """``ticket``, ``open`` (the fence), ``add``, ``remove``, ``announce`` or ``probe``."""
    number: int


LATE, FOREIGN_KEY = "late", "foreign_key"
"""Kinds of problems: this daemon gets too little processor time; another node signs with a key that this node lacks."""
UNCONFIGURED = 0
"""Incarnation of a daemon that has not been able to apply any configuration: only ``problems`` of its state count."""


class Heartbeats(msgspec.Struct, frozen=True):
    """Heartbeats of a node since its daemon started."""

    sent: int = 0
    late: int = 0
    """Number of heartbeats that were sent at least one whole period late."""


class KeeperState(msgspec.Struct, frozen=True):
    """The state of the lease daemon, for the agent and operators."""

    node: str
    incarnation: int
    """A random number of this start of the daemon, or :data:`UNCONFIGURED`."""
    egress: tuple[EgressState, ...]
    members: tuple[MemberState, ...]
    voters: tuple[str, ...]
    voter_set: int
    """Version of the voter set; 0: none is known yet."""
    isolated: bool
    """True if this node is an egress node that has no contact with a majority of the voters."""
    counters: dict[str, int]
    """Numbers of messages: ``accepted``, ``bad_mac``, ``replayed``, ``truncated``, ``malformed``, ``unknown_sender``,
    …
    """
    changes: tuple[Change, ...] = ()
    """The last hundred changes, oldest first."""
    conflicts: tuple[Conflict, ...] = ()
    problems: tuple[str, ...] = ()
    unfit: str = ""
    """The reason why this node can serve no egress IP, though its agent finds it ready."""
    keys: OwnKeys | None = None
    """Keys of all nodes; None: left out, as in every state but the first one on a connection."""
    failures: tuple[KernelFailures, ...] = ()
    """Failures of the kernel for the virtual addresses that this node may serve."""
    heartbeats: Heartbeats = Heartbeats()
    kinds: dict[str, str] = {}
    """The kinds of some of ``problems``, by their text."""
