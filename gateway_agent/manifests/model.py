"""The objects of the store, parsed once: typed, immutable, in the words of the manifests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from cni.plan import PodIdentity, Requirement, Selector

from .. import printable
from ..lease.voting.voter_set import VoterSet

BASIC = "PrimaryIPFromEgressGatewayNodeInterface"
VIRTUAL_IP = "VirtualIPAddress"
SHUTTING_DOWN = "node is shutting down"
"""What a kubelet's message of the condition ``Ready`` says then (graceful node shutdown)."""
DRAIN = "egress-gateway.io/drain"
"""Annotation of a node."""


@dataclass(frozen=True)
class Problem:
    """Something the owner should mend. One bad object never disturbs the others."""

    source: str
    """File (with the number of the document where it has several), or object."""
    path: str
    """Field path, as ``spec.sourceIP.mode``; empty where it is about the whole."""
    message: str
    hint: str = ""

    def __post_init__(self) -> None:
        # What is shown may come from anywhere: it neither steers a terminal nor fills a log.
        for name in ("source", "path", "message", "hint"):
            object.__setattr__(self, name, printable.printable(getattr(self, name)))

    def __str__(self) -> str:
        where = f"{self.source}: {self.path}: " if self.path else f"{self.source}: "
        return f"{where}{self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True)
class Gateway:
    """An ``EgressGateway``."""

    name: str
    node_selector: tuple[Requirement, ...]
    mode: str
    """:data:`BASIC` or :data:`VIRTUAL_IP`."""
    interface: str = ""
    """Basic mode: the interface whose primary address the outside sees."""
    addresses: tuple[str, ...] = ()
    """Virtual-IP mode: ``ip`` or ``ips``."""
    interfaces: tuple[str, ...] = ()
    """Virtual-IP mode: where the addresses may stand."""
    when_no_gateway: Literal["Drop", "Direct"] = "Drop"
    failback: Literal["Never", "Automatic"] = "Never"
    connection_sync: bool = False
    source: str = ""


@dataclass(frozen=True)
class Policy:
    """An ``EgressGatewayPolicy``. No destination means everything outside the cluster."""

    name: str
    gateway: str
    selectors: tuple[Selector, ...]
    destinations: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    created: str = ""
    """``metadata.creationTimestamp``; empty sorts after every time."""
    source: str = ""


@dataclass(frozen=True)
class Node:
    """A node of the inventory. ``addresses``: its InternalIP addresses, in the order given."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    source: str = ""
    pod_cidrs: tuple[str, ...] = ()
    """The networks of its pods, where the cluster gives them out."""
    cordoned: bool = False
    """``spec.unschedulable``: nothing new is to come here. For an address that means: it goes, by planned handover."""
    drained: bool = False
    """The annotation :data:`DRAIN` is ``true``: the same for addresses only."""
    stopping: bool = False
    """Its kubelet says that the machine is being shut down: the same."""
    external: tuple[str, ...] = ()
    """Its ExternalIP addresses: destinations inside, and nothing else."""


@dataclass(frozen=True)
class RunningPod:
    """A pod of this node that has addresses of its own."""

    namespace: str
    name: str
    uid: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Inventory:
    """All that the store says, and what is wrong with it."""

    gateways: tuple[Gateway, ...] = ()
    policies: tuple[Policy, ...] = ()
    nodes: tuple[Node, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Labels by name."""
    pods: tuple[PodIdentity, ...] = ()
    running: tuple[RunningPod, ...] = ()
    on_host: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Pods that use the network of their node, by namespace and name: the node's name, empty if it is unknown. No
    network plugin is called for them, so nothing can steer what they send."""
    service_cidrs: tuple[str, ...] = ()
    """The networks of Services, where the cluster names them."""
    voters: VoterSet | None = None
    """What the store says of the voters; see :mod:`gateway_agent.kubernetes.voter_configmap`."""
    problems: tuple[Problem, ...] = ()
    knows_pods: bool = False
    """The store has every pod of this node: one that it does not know will come in a moment. Else a pod that has no
    document has the labels of its CNI call; if that gave none, they are unknown."""
    uids: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Of the pods whose uid the store knows, by namespace and name: as the runtime is told it."""

    @cached_property
    def pods_by_name(self) -> Mapping[tuple[str, str], PodIdentity]:
        """The pods that the store knows, by namespace and name."""
        return {(pod.namespace, pod.name): pod for pod in self.pods}

    @cached_property
    def policies_by_name(self) -> Mapping[str, Policy]:
        return {policy.name: policy for policy in self.policies}

    def same_but_for_pods(self, other: Inventory) -> bool:
        """Whether the plan of both is the same for every pod that has its policy set in it."""
        mine, theirs = (
            (i.gateways, i.policies, i.nodes, i.namespaces, i.service_cidrs) for i in (self, other)
        )
        return mine == theirs

    @property
    def virtual_addresses(self) -> frozenset[str]:
        """Of all gateways."""
        return frozenset(address for gateway in self.gateways for address in gateway.addresses)
