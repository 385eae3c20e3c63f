"""Typed, immutable forms of the store's objects. Names follow the manifests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Literal

from cni.plan import PodIdentity, Requirement, Selector

from .. import printable
from ..lease.voting.voter_set import VoterSet

BASIC = "PrimaryIPFromEgressGatewayNodeInterface"
VIRTUAL_IP = "VirtualIPAddress"
SHUTTING_DOWN = "node is shutting down"
"""Part of the message that a kubelet gives the condition ``Ready`` during a graceful node shutdown."""
DRAIN = "egress-gateway.io/drain"
"""Annotation of a node. The value ``true`` drains the node's egress IPs."""


class Fault(StrEnum):
    """The kinds of faults of a node, for the verdict of status and as a label of metrics."""

    ISOLATED = "isolated"
    NO_MASTER = "no_master"
    CONFLICT = "address_conflict"
    KERNEL = "kernel"
    PLUGIN = "plugin"
    KEY = "key"
    LATE = "late"
    LEASE_DAEMON = "lease_daemon"
    NOT_READY = "not_ready"
    NO_MAJORITY = "no_majority"
    MEMBER = "member"
    ORPHAN = "orphan_policy"
    OBJECT = "invalid_object"
    API = "api"
    OTHER = "other"
    STARTING = "starting"
    DRAINED = "drained"


@dataclass(frozen=True)
class Problem:
    """An error that the owner of an object or of a node should fix. It never affects other objects."""

    source: str
    """File, with the number of the document if the file has several; or object."""
    path: str
    """Field path, as ``spec.sourceIP.mode``; empty if the problem concerns the whole source."""
    message: str
    hint: str = ""
    kind: Fault = field(default=Fault.OTHER, compare=False)
    """No part of the problem's identity: it says how the problem is counted."""

    def __post_init__(self) -> None:
        # A problem may quote text from outside: it must not control a terminal or fill a log.
        for name in ("source", "path", "message", "hint"):
            object.__setattr__(self, name, printable.printable(getattr(self, name)))

    def __str__(self) -> str:
        where = f"{self.source}: {self.path}: " if self.path else f"{self.source}: "
        return f"{where}{self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True)
class Routing:
    """The router for packets with a gateway's addresses, in place of the node's main table."""

    next_hops: tuple[str, ...] = ()
    """Next hops on the egress interface, at most one for each family."""
    length: int = 0
    """Length of the IPv4 prefix around the next hop that is on-link; 0: none."""
    length6: int = 0
    """Length of the IPv6 prefix around the next hop that is on-link; 0: none."""
    table: int = 0
    """Number of another program's routing table, in place of next hops; 0: none."""
    table_name: str = ""
    """Name of that table in the node's configuration (Deckhouse's ``routingTableName``)."""


def seniority(created: str, name: str) -> tuple[bool, str, str]:
    """Return a sort key: the older object first, then by name. ``created``: empty sorts after every time."""
    return not created, created, name


@dataclass(frozen=True)
class Gateway:
    """An ``EgressGateway``."""

    name: str
    node_selector: tuple[Requirement, ...]
    mode: str
    """:data:`BASIC` or :data:`VIRTUAL_IP`."""
    interface: str = ""
    """Basic mode: the interface whose primary address is the source address outside."""
    addresses: tuple[str, ...] = ()
    """Virtual-IP mode: ``ip`` or ``ips``."""
    interfaces: tuple[str, ...] = ()
    """Virtual-IP mode: interfaces that may hold the addresses; empty: chosen by subnet or default route."""
    when_no_gateway: Literal["Drop", "Direct"] = "Drop"
    failback: Literal["Never", "Automatic"] = "Never"
    connection_sync: bool = False
    source: str = ""
    routing: Routing | None = None
    """Router of the gateway's packets; None: the node's main table decides."""
    created: str = ""
    """``metadata.creationTimestamp``; see :func:`seniority`."""


@dataclass(frozen=True)
class Policy:
    """An ``EgressGatewayPolicy``. No destination means everything outside the cluster."""

    name: str
    gateway: str
    selectors: tuple[Selector, ...]
    destinations: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    created: str = ""
    """``metadata.creationTimestamp``; see :func:`seniority`."""
    source: str = ""


@dataclass(frozen=True)
class Node:
    """A node of the inventory. ``addresses``: its InternalIP addresses, in the order of its status."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    source: str = ""
    pod_cidrs: tuple[str, ...] = ()
    """``spec.podCIDRs``: prefixes of its pods, if the cluster allocates prefixes to nodes."""
    cordoned: bool = False
    """``spec.unschedulable``. The node hands over its egress IPs, and gets no new ones."""
    drained: bool = False
    """The annotation :data:`DRAIN` is ``true``. The node hands over its egress IPs, and gets no new ones."""
    stopping: bool = False
    """True if the node's kubelet reports a shutdown of the machine. The node hands over its egress IPs, and gets no
    new ones.
    """
    external: tuple[str, ...] = ()
    """ExternalIP addresses of the node. They are used only as destinations inside the cluster."""
    created: str = ""
    """``metadata.creationTimestamp``; see :func:`seniority`."""


@dataclass(frozen=True)
class RunningPod:
    """A pod of this node that has its own addresses, not the node's."""

    namespace: str
    name: str
    uid: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Inventory:
    """All objects of the store, and the problems found in them."""

    gateways: tuple[Gateway, ...] = ()
    policies: tuple[Policy, ...] = ()
    nodes: tuple[Node, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Labels of each namespace, by its name."""
    pods: tuple[PodIdentity, ...] = ()
    running: tuple[RunningPod, ...] = ()
    on_host: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Pods with ``hostNetwork``, by (namespace, name): the node's name, empty if it is unknown. No CNI plugin is
    called for them, so their packets cannot be steered."""
    service_cidrs: tuple[str, ...] = ()
    """Prefixes of Services, if the cluster has ``ServiceCIDR`` objects."""
    voters: VoterSet | None = None
    """The voter set recorded in the store; see :mod:`gateway_agent.kubernetes.voter_configmap`."""
    problems: tuple[Problem, ...] = ()
    knows_pods: bool = False
    """True if the store has every pod of this node: a pod that is missing will appear shortly. False: a pod without a
    document has the labels of its CNI call; if the call has none, its labels are unknown."""
    uids: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Uids by (namespace, name) of the pods whose uid the store knows, in the form in which a runtime gets them."""

    @cached_property
    def pods_by_name(self) -> Mapping[tuple[str, str], PodIdentity]:
        """Return the pods of the store by (namespace, name)."""
        return {(pod.namespace, pod.name): pod for pod in self.pods}

    @cached_property
    def policies_by_name(self) -> Mapping[str, Policy]:
        """Return the policies by name."""
        return {policy.name: policy for policy in self.policies}

    def same_but_for_pods(self, other: Inventory) -> bool:
        """Return True if both inventories differ in pods only.

        Both lead to the same plan for every pod whose policy set the plan has.
        """
        mine, theirs = (
            (i.gateways, i.policies, i.nodes, i.namespaces, i.service_cidrs) for i in (self, other)
        )
        return mine == theirs

    @property
    def virtual_addresses(self) -> frozenset[str]:
        """Return the virtual addresses of all gateways."""
        return frozenset(address for gateway in self.gateways for address in gateway.addresses)
