"""The parts of a plan: policies, nodes, egress IPs and policy sets. Pure data; each part has one JSON form.

The names of the fields are the keys of ``plan.json``, which older and newer plugins read, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .kernel import ids
from .label_selector import PodIdentity, Selector


@dataclass(frozen=True)
class PlanPolicy:
    """A policy with the pods that it selects. The policy sets name the egress IP of each packet."""

    name: str
    gateway: str
    selectors: tuple[Selector, ...]

    def selects(self, pod: PodIdentity, namespace_labels: Mapping[str, str] | None) -> bool | None:
        """Return True if any selector selects the pod; None if that depends on labels that are not known."""
        answers = [selector.selects(pod, namespace_labels) for selector in self.selectors]
        if True in answers:
            return True
        return None if None in answers else False


@dataclass(frozen=True)
class PlanNode:
    """A node of the inventory. ``address`` is its tunnel endpoint, ``address6`` its IPv6 address or empty."""

    name: str
    address: str
    address6: str = ""

    @property
    def mac(self) -> str:
        """The MAC of the node's tunnel devices."""
        return ids.node_mac(self.address)


@dataclass(frozen=True)
class PlanEgressIP:
    """One egress IP as this node sees it."""

    id: str
    """:func:`cni.kernel.ids.egress_id`."""
    gateway: str
    address: str
    """The virtual address; empty in basic mode."""
    slot: int
    """This node's number for packets that leave its own pods by the egress IP: mark, routing table and rule. 0: this
    node has none, and drops such packets."""
    vni: int
    eligible: tuple[str, ...]
    """Names of the nodes that can be master, sorted."""
    master: str = ""
    """Name of the last known master; empty: none."""
    epoch: int = 0
    direct: bool = False
    """``whenNoGateway: Direct``: without a master, packets go as if there were no policy."""
    interface: str = ""
    """The egress interface if this node is eligible; else empty."""
    source: str = ""
    """The IPv4 source address of packets if *this* node is master; empty if the node has none or is not eligible."""
    source6: str = ""
    """The IPv6 address, of an egress IP of that family."""
    mode: str = "PrimaryIPFromEgressGatewayNodeInterface"
    sync: bool = False
    """``connectionSync``: the nodes that can be master know each other's connections."""
    routed: bool = False
    """``spec.routing``: packets leave this node by the three fields below, and not by the main table."""
    next_hop: str = ""
    """Address of the router on the egress interface; empty if it is not known now, or if ``table`` decides."""
    on_link: str = ""
    """Prefix that is reached on the egress interface without the router; empty: none."""
    table: int = 0
    """Number of another program's routing table; 0: none."""
    inlet: int = -1
    """This node's number (connection mark) for connections that come out of the tunnel, if the node can be master.
    0: no packet comes out of the tunnel here. If it is not given, ``slot``."""

    def __post_init__(self) -> None:
        if self.inlet < 0:
            object.__setattr__(self, "inlet", self.slot)

    @property
    def device(self) -> str:
        """Name of the tunnel device of the egress IP."""
        return ids.device(self.vni)

    @property
    def family(self) -> int:
        """IP version of the packets that can leave by the egress IP: 4 or 6. In basic mode 4."""
        return 6 if ":" in self.address else 4


@dataclass(frozen=True)
class Destination:
    """Packets to ``prefix`` leave through the egress IP with this id. Prefixes of one set are disjoint."""

    prefix: str
    egress_id: str


SetKey = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Key of a policy set: ``policies``, ``egress_ids``, ``egress_ids6``."""


@dataclass(frozen=True)
class PolicySet:
    """The pods that the same policies select and that use the same egress IPs: they share one tag."""

    number: int
    """1 to :attr:`cni.kernel.ids.MarkLayout.sets`; the interface group is ``GROUP_BASE + number``."""
    policies: tuple[str, ...]
    """Names, sorted."""
    egress_ids: tuple[str, ...]
    """The egress IP to which IPv4 packets are led, for each policy in the same order."""
    destinations: tuple[Destination, ...]
    """Destinations with their egress IPs: disjoint prefixes of both families."""
    egress_ids6: tuple[str, ...] = ()
    """The same for IPv6. Equal to ``egress_ids`` if it is not given, or if the gateway has addresses of one family."""

    def __post_init__(self) -> None:
        if not self.egress_ids6:
            object.__setattr__(self, "egress_ids6", self.egress_ids)

    @property
    def key(self) -> SetKey:
        """The identity of the set."""
        return self.policies, self.egress_ids, self.egress_ids6

    @property
    def group(self) -> int:
        """The interface group of the set's pods: their tag."""
        return ids.GROUP_BASE + self.number
