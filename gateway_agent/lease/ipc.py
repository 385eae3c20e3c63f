"""Messages between the agent and the lease daemon: newline-delimited JSON on ``keeper.sock``.

The keeper needs no file, no store and no configuration of its own: the agent sends a :class:`KeeperConfig`
whenever something in it has changed (and as a sign of life each second), and the daemon answers each
connection with a :class:`KeeperState` at once and after every change.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .limits import MOST_TUNNELS, Duration, Identity, KeyNumbers, Mask, Port, Seconds, Text, Vni
from .voting.quorum_view import Electorate
from .voting.voter_set import VoterSet

SOCKET = "keeper.sock"
LOG = "keeper.log"
"""The output of a daemon in the background: why it ended, and messages that it could not handle."""
LOCK = "keeper.lock"
"""Lock that the one daemon of a run directory holds; the file has its process id in it."""
STAY = "--stay"
"""Option of a daemon that another program than the agent runs: it stays in the foreground, waits where there is one
already, and runs without the agent that is to come.
"""
WAIT = "--wait"
"""Option of a standby daemon: it loads everything, and begins with the first line of its input."""


class Peer(msgspec.Struct, frozen=True):
    """A node of the inventory."""

    name: str
    address: str
    """Address on which the node's lease daemon listens (UDP, the cluster port) and on which its tunnels end."""
    egress: bool
    """True if some gateway's ``nodeSelector`` matches the node: it sends heartbeats and can be master."""


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
    """The address that the outside sees while this node is master; empty where it is not eligible."""
    interface: str = ""
    """The interface of the virtual address while this node is master; empty if there is none."""
    leaving: bool = False
    """True if this node is not ready because it is to be emptied: as master it hands over while it still forwards."""
    keeps: bool = False
    """True if this node may not take the egress IP over, but as its master may remain that."""
    failback: bool = False
    """True if the egress IP goes back, by handover, to the node that it would be on if all had always been well."""
    carries: bool = True
    """True if a pod of this node uses the egress IP, as far as the agent knows."""
    device: str = ""
    """The tunnel device whose next-hop neighbour the daemon points at the master; empty: none here yet."""
    vni: int = 0
    """VNI of the tunnel: the same on all nodes, as ``sync``."""
    sync: bool = False
    """``connectionSync``."""


class HandoverRequest(msgspec.Struct, frozen=True):
    """An operator wants this node to be master of an egress IP."""

    id: str
    to: str
    token: int
    """Number of this request, different for each: a request is carried out once."""


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
    """Fingerprints of the keys that the node accepts, the one that it signs with first."""
    clock: Seconds = 0.0
    """The node's wall clock when it sends this; 0: not known."""
    tunnels: Annotated[tuple[Tunnel, ...], msgspec.Meta(max_length=MOST_TUNNELS)] = ()
    """Tunnels of some of the node's egress IPs: with each period of others."""
    mark_mask: Mask = 0
    """``mark.mask`` of an egress node that syncs connections, which have marks; else 0."""


class PeerKey(msgspec.Struct, frozen=True):
    """The key that signed the last message of another node."""

    node: str
    fingerprint: str
    """16 hex digits; empty: a version that names none."""
    silent_ms: int = msgspec.field(name="last_heard_ms")
    known: bool = True
    """True if this node has the key; else ``node`` is found by the address that the message came from."""
    accepts: tuple[str, ...] | None = None
    """Fingerprints of the keys that the node says it accepts; None: it has not said so."""


class OwnKeys(msgspec.Struct, frozen=True):
    """The keys of this node, by their fingerprints, and what it knows of those of others."""

    signs: str
    accepts: tuple[str, ...]
    peers: tuple[PeerKey, ...] = msgspec.field(name="heard")


class KeeperConfig(msgspec.Struct, frozen=True):
    """The configuration of the lease daemon. ``peers`` has this node too."""

    node: str
    port: int
    key_file: str
    heartbeat_ns: int
    duration_ns: int
    availability_first: bool
    peers: tuple[Peer, ...]
    egress: tuple[EgressIPSpec, ...]
    stopping: bool = False
    """True if the service is being stopped: hand every lease over, inform the workers, then exit."""
    moves: tuple[HandoverRequest, ...] = ()
    published: VoterSet | None = None
    """The voter set that the cluster names; see :mod:`gateway_agent.kubernetes.voter_configmap`."""
    accept_key_files: tuple[str, ...] = ()
    """Further keys that messages may be signed with."""
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
    """Wall clock, seconds, when the master took over (as it says itself); 0 where there is none."""
    state: str
    """This node's role: ``master``, ``standby`` (could be master) or ``none``."""
    reason: str
    """The reason why there is no master, or why this node is not the master; empty where all is well."""
    shown: str = ""
    """The address that the outside sees now, as the master says; empty where there is none."""
    without_quorum: bool = msgspec.field(default=False, name="survivor")
    """The master holds it without a majority (two nodes only, or ``AvailabilityFirst``)."""
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
    """An egress IP got another master, or lost its last."""

    id: str
    before: str
    after: str
    epoch: int
    at: float
    """Time of the change by the wall clock, seconds."""
    silent_ms: int
    """Upper bound of the time in which nothing left by the egress IP: from the release by the master before, or from
    the last sign of a master that was silent, until the new one served. 0 for a planned handover, where packets
    waited.
    """
    reason: str
    planned: bool = False
    """The master before has handed over to a node of its choice."""


class Conflict(msgspec.Struct, frozen=True):
    """Another machine on the LAN claims a virtual address."""

    id: str
    address: str
    mac: str
    interface: str
    since: float
    """Time of the first claim by the wall clock, seconds."""


class KernelFailures(msgspec.Struct, frozen=True):
    """Numbers of refusals of the kernel for a virtual address, since the lease daemon started."""

    address: str
    """The virtual address; empty for a ticket, which is for all addresses."""
    what: str
    """``ticket``, ``open`` (the fence), ``add``, ``remove``, ``announce`` or ``probe``."""
    number: int


LATE, FOREIGN_KEY = "late", "foreign_key"
"""Kinds of problems: this daemon gets too little processor time; another node signs with a key that is not ours."""
UNCONFIGURED = 0
"""Incarnation in the states of a daemon that could follow no configuration so far: only ``problems`` count in them."""


class Heartbeats(msgspec.Struct, frozen=True):
    """Heartbeats of a node since its daemon started."""

    sent: int = 0
    late: int = 0
    """Made a whole period late, or later."""


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
    """Keys of all nodes; None: left out, as everywhere but in the first state on a connection."""
    failures: tuple[KernelFailures, ...] = ()
    """Failures of the kernel for the virtual addresses that this node may serve."""
    heartbeats: Heartbeats = Heartbeats()
    kinds: dict[str, str] = {}
    """The kinds of some of ``problems``, by their text."""
