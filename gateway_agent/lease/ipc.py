"""Messages between the agent and the lease daemon: newline-delimited JSON on ``keeper.sock``.

The keeper needs no file, no store and no configuration of its own: the agent sends a :class:`KeeperConfig`
whenever something in it has changed (and as a sign of life each second), and the keeper answers each
connection with a :class:`KeeperState` at once and after every change.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .messages.limits import MOST_TUNNELS, Duration, Identity, KeyNumbers, Port, Seconds, Text, Vni
from .voting.voter_set import VoterSet

SOCKET = "keeper.sock"
LOG = "keeper.log"
"""The output of a daemon in the background: why it ended, and messages that it could not handle."""
LOCK = "keeper.lock"
"""Held by the one keeper of a run directory, with its process id in it."""
STAY = "--stay"
"""Option of a keeper that somebody else than the agent runs: it stays in the foreground, waits where there is one
already, and runs without the agent that is to come."""
WAIT = "--wait"
"""Option of a spare keeper: it loads everything, and begins with the first line of its input."""


class Peer(msgspec.Struct, frozen=True):
    """A node of the inventory."""

    name: str
    address: str
    """Its lease daemon listens there (UDP, the cluster port), and its tunnels end there."""
    egress: bool
    """Some gateway's ``nodeSelector`` matches it: it sends heartbeats and can be master."""


class EgressIPSpec(msgspec.Struct, frozen=True):
    """An egress IP that this node may serve or follows."""

    id: str
    gateway: str
    address: str
    """The virtual address; empty in basic mode."""
    eligible: tuple[str, ...]
    """Names of the nodes that can be master, sorted."""
    ready: bool = False
    """*This* node can serve it now. False if it is not eligible."""
    reason: str = ""
    """Why it is not ready."""
    shown: str = ""
    """The address that the outside sees while this node is master; empty where it is not eligible."""
    interface: str = ""
    """The interface of the virtual address while this node is master; empty if there is none."""
    leaving: bool = False
    """Not ready by somebody's choice: a master hands over to another node while it still forwards."""
    keeps: bool = False
    """Not ready to take it over; but if this node is master, it is ready to remain that."""
    failback: bool = False
    """Goes back, by handover, to the node that it would be on if all had always been well."""
    carries: bool = True
    """A pod of this node goes by it, as far as the agent knows."""
    device: str = ""
    """The tunnel device whose next-hop neighbour the keeper points at the master; empty: none here yet."""
    vni: int = 0
    """Of the tunnel: the same on all nodes, as ``sync``."""
    sync: bool = False
    """``connectionSync``."""


class HandoverRequest(msgspec.Struct, frozen=True):
    """An operator wants this node to be master of an egress IP."""

    id: str
    to: str
    token: int
    """Each wish has another one: it is carried out once."""


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
    """Of the node's wall clock as it says this; 0: it does not tell."""
    tunnels: Annotated[tuple[Tunnel, ...], msgspec.Meta(max_length=MOST_TUNNELS)] = ()
    """Of some of its egress IPs: with each period of others."""


class HeardKey(msgspec.Struct, frozen=True):
    """By which key the last message of another node came."""

    node: str
    fingerprint: str
    """16 hex digits; empty: a version that names none."""
    last_heard_ms: int
    known: bool = True
    """This node has the key; else the name is that of the address that the message came from."""
    accepts: tuple[str, ...] | None = None
    """Fingerprints of the keys that the node says it accepts; None: it has not said so."""


class OwnKeys(msgspec.Struct, frozen=True):
    """The keys of this node, by their fingerprints, and what it knows of those of others."""

    signs: str
    accepts: tuple[str, ...]
    heard: tuple[HeardKey, ...]


class KeeperConfig(msgspec.Struct, frozen=True):
    """All that a keeper must know. ``peers`` has this node too."""

    node: str
    port: int
    key_file: str
    heartbeat_ns: int
    duration_ns: int
    availability_first: bool
    peers: tuple[Peer, ...]
    egress: tuple[EgressIPSpec, ...]
    stopping: bool = False
    """The service is being stopped: hand every lease over, tell the workers, then exit."""
    moves: tuple[HandoverRequest, ...] = ()
    published: VoterSet | None = None
    """The voter set that the cluster names; see :mod:`gateway_agent.kubernetes.voter_configmap`."""
    accept_key_files: tuple[str, ...] = ()
    """Further keys that messages may be signed with."""
    facts: Facts | None = None
    """The settings of this node, without its keys, as other nodes are told."""


class EgressState(msgspec.Struct, frozen=True):
    """An egress IP as this node sees it."""

    id: str
    master: str
    """Name of the master; empty: none known."""
    epoch: int
    since: float
    """Wall clock, seconds, when the master took over (as it says itself); 0 where there is none."""
    state: str
    """This node's part: ``master``, ``standby`` (it could be) or ``none``."""
    reason: str
    """Why there is no master, or why this node is not it; empty where all is well."""
    shown: str = ""
    """The address that the outside sees now, as the master says; empty where there is none."""
    survivor: bool = False
    """The master holds it without a majority (two nodes only, or ``AvailabilityFirst``)."""


class MemberState(msgspec.Struct, frozen=True):
    """An egress node as this node hears it."""

    node: str
    alive: bool
    ready: bool
    reason: str
    last_heard_ms: int
    """-1: never."""


class Change(msgspec.Struct, frozen=True):
    """An egress IP got another master, or lost its last."""

    id: str
    before: str
    after: str
    epoch: int
    at: float
    """Wall clock, seconds."""
    silent_ms: int
    """For how long nothing left by the egress IP, at most: from the moment at which the master before let go, or from
    its last sign where it was unheard, until the new one served. 0 for a planned handover, where packets waited."""
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
    """Wall clock, seconds."""


class KernelFailures(msgspec.Struct, frozen=True):
    """How often the kernel did not do something for a virtual address, since the lease daemon started."""

    address: str
    """Empty for a ticket, which is for all addresses."""
    what: str
    """``ticket``, ``open`` (the fence), ``add``, ``remove``, ``announce`` or ``probe``."""
    number: int


class KeeperState(msgspec.Struct, frozen=True):
    """All that an agent or an operator is told."""

    node: str
    incarnation: int
    egress: tuple[EgressState, ...]
    members: tuple[MemberState, ...]
    voters: tuple[str, ...]
    voter_set: int
    """Version of the voter set; 0: none is known yet."""
    isolated: bool
    """This node is an egress node and hears no majority of the voters."""
    counters: dict[str, int]
    """Messages: ``accepted``, ``bad_mac``, ``replayed``, ``truncated``, ``malformed``, ``unknown_sender``, …"""
    changes: tuple[Change, ...] = ()
    """The last hundred, oldest first."""
    conflicts: tuple[Conflict, ...] = ()
    problems: tuple[str, ...] = ()
    unfit: str = ""
    """Why this node can serve no egress IP, though its agent finds it ready."""
    keys: OwnKeys | None = None
    """Told only to a connection that is new: the table has all nodes."""
    failures: tuple[KernelFailures, ...] = ()
    """Of the virtual addresses that this node may serve."""
