"""What this node is to do, as data: the agent writes it, the plugin can follow it alone.

Everything here is plain, frozen and has one JSON form (``plan.json``). No decision about *who is master*
or *which prefixes win* is taken here: those are made by the agent and stand in the plan as results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .kernel import ids

VERSION = 1
NAMESPACE_LABEL = "io.kubernetes.pod.namespace"
"""Every pod carries it for matching, with its namespace as value, whatever its own labels say."""


@dataclass(frozen=True)
class Requirement:
    """One term of a Kubernetes label selector. ``matchLabels: {k: v}`` is ``k In (v,)``."""

    key: str
    operator: str
    """``In``, ``NotIn``, ``Exists`` or ``DoesNotExist``."""
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.operator == "Exists":
            return value is not None
        if self.operator == "DoesNotExist":
            return value is None
        if self.operator == "In":
            return value in self.values
        return value is None or value not in self.values


def matches(requirements: Iterable[Requirement], labels: Mapping[str, str]) -> bool:
    """True where every requirement holds. No requirement at all matches everything, as in Kubernetes."""
    return all(requirement.holds(labels) for requirement in requirements)


@dataclass(frozen=True)
class PodIdentity:
    """A pod as its CNI call and the store know it. ``labels`` is None where nobody has told them."""

    namespace: str
    name: str
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Selector:
    """Pods by their labels and, where ``namespaces`` is given, by the labels of their namespace."""

    pods: tuple[Requirement, ...] = ()
    namespaces: tuple[Requirement, ...] | None = None

    def selects(self, pod: PodIdentity, namespace_labels: Mapping[str, str] | None) -> bool | None:
        """True, False, or None where the answer hangs on labels that are not known.

        A namespace without a ``Namespace`` document has no labels but its name.
        """
        known = {NAMESPACE_LABEL: pod.namespace}
        if self.namespaces is not None:
            labels = {"kubernetes.io/metadata.name": pod.namespace, **(namespace_labels or {})}
            if not matches(self.namespaces, labels):
                return False
        if pod.labels is not None:
            return matches(self.pods, {**pod.labels, **known})
        if not all(term.holds(known) for term in self.pods if term.key == NAMESPACE_LABEL):
            return False
        return True if all(term.key == NAMESPACE_LABEL for term in self.pods) else None


@dataclass(frozen=True)
class PlanPolicy:
    """Which pods a policy selects. Where their packets go stands in the policy sets."""

    name: str
    gateway: str
    selectors: tuple[Selector, ...]

    def selects(self, pod: PodIdentity, namespace_labels: Mapping[str, str] | None) -> bool | None:
        """Whether any selector does; None where it hangs on labels that are not known."""
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
    """This node's own number for it: mark, routing table and rule."""
    vni: int
    eligible: tuple[str, ...]
    """Names of the nodes that can be master, sorted."""
    master: str = ""
    """Name of the last known master; empty: none."""
    epoch: int = 0
    direct: bool = False
    """``whenNoGateway: Direct``: without a master, packets go as if there were no policy."""
    interface: str = ""
    """The egress interface, where this node is eligible; else empty."""
    source: str = ""
    """The IPv4 address that *this* node shows for it when master; empty where it has none or is not eligible."""
    source6: str = ""
    mode: str = "PrimaryIPFromEgressGatewayNodeInterface"

    @property
    def device(self) -> str:
        return ids.device(self.vni)


@dataclass(frozen=True)
class Way:
    """Packets to ``prefix`` leave through the egress IP with this id. Prefixes of one set are disjoint."""

    prefix: str
    egress_id: str


@dataclass(frozen=True)
class PolicySet:
    """Pods that the same policies select, by the same egress IPs, share one tag."""

    number: int
    """1 to :attr:`cni.kernel.ids.MarkLayout.numbers`; the interface group is ``GROUP_BASE + number``."""
    policies: tuple[str, ...]
    """Names, sorted."""
    egress_ids: tuple[str, ...]
    """For each policy the egress IP it leads to, in the same order."""
    ways: tuple[Way, ...]

    @property
    def group(self) -> int:
        return ids.GROUP_BASE + self.number


@dataclass(frozen=True)
class Plan:
    """The whole of it. ``nodes`` are all nodes of the inventory, this one included, sorted by name."""

    node: str
    mask: int
    port: int
    mtu: int
    """Of the tunnel devices, bytes."""
    nodes: tuple[PlanNode, ...] = ()
    egress_ips: tuple[PlanEgressIP, ...] = ()
    policies: tuple[PlanPolicy, ...] = ()
    policy_sets: tuple[PolicySet, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Labels of the namespaces, for ``namespaceSelector``."""
    isolated: bool = False
    """This node hears no majority of the voters: it forwards nothing new for others."""

    @property
    def layout(self) -> ids.MarkLayout:
        return ids.MarkLayout(self.mask)

    @property
    def me(self) -> PlanNode | None:
        """This node's entry in the inventory; None where it has none."""
        return next((node for node in self.nodes if node.name == self.node), None)

    @property
    def endpoint(self) -> PlanNode | None:
        """This node, where tunnels can end at it: the source of what enters them is its IPv4 address."""
        me = self.me
        return me if me is not None and ":" not in me.address else None

    @property
    def peers(self) -> tuple[PlanNode, ...]:
        """The other nodes that tunnels can lead to."""
        return tuple(node for node in self.nodes if node.name != self.node and ":" not in node.address)

    def serves(self, egress: PlanEgressIP) -> bool:
        """Whether this node is the master: its own pods leave by the egress interface, without a tunnel."""
        return bool(egress.master) and egress.master == self.node

    def policies_for(self, pod: PodIdentity) -> tuple[str, ...] | None:
        """Names of the policies that select the pod, sorted; None where that hangs on unknown labels."""
        answers = {p.name: p.selects(pod, self.namespaces.get(pod.namespace)) for p in self.policies}
        if None in answers.values():
            return None
        return tuple(sorted(name for name, selected in answers.items() if selected))

    def set_for(self, pod: PodIdentity, policies: tuple[str, ...]) -> PolicySet | None:
        """The policy set with exactly these policies that this pod uses; None where the plan has none."""
        candidates = [s for s in self.policy_sets if s.policies == policies]
        return candidates[spread(pod, len(candidates))] if candidates else None


def spread(pod: PodIdentity, buckets: int) -> int:
    """A stable number in 0..buckets-1 for a pod: so it keeps its address among several."""
    return int(ids.egress_id(pod.namespace, pod.name), 16) % buckets


def dumps(plan: Plan) -> str:
    """The JSON form of a plan, stable: equal plans give equal text."""
    return json.dumps({"version": VERSION, **asdict(plan)}, sort_keys=True, indent=1) + "\n"


def loads(text: str) -> Plan:
    """The plan in ``text``. Raises :class:`ValueError` for what is no plan of this version."""
    try:
        data = json.loads(text)
        if data.pop("version", None) != VERSION:
            raise ValueError("plan of another version")
        data["nodes"] = tuple(PlanNode(**node) for node in data["nodes"])
        data["egress_ips"] = tuple(_egress_ip(item) for item in data["egress_ips"])
        data["policies"] = tuple(_policy(item) for item in data["policies"])
        data["policy_sets"] = tuple(_policy_set(item) for item in data["policy_sets"])
        return Plan(**data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a plan: {error}") from error


def _egress_ip(item: dict[str, Any]) -> PlanEgressIP:
    return PlanEgressIP(**{**item, "eligible": tuple(item["eligible"])})


def _requirements(items: list[dict[str, Any]] | None) -> tuple[Requirement, ...] | None:
    if items is None:
        return None
    return tuple(Requirement(i["key"], i["operator"], tuple(i["values"])) for i in items)


def _policy(item: dict[str, Any]) -> PlanPolicy:
    selectors = tuple(
        Selector(_requirements(s["pods"]) or (), _requirements(s["namespaces"])) for s in item["selectors"]
    )
    return PlanPolicy(item["name"], item["gateway"], selectors)


def _policy_set(item: dict[str, Any]) -> PolicySet:
    ways = tuple(Way(**way) for way in item["ways"])
    return PolicySet(item["number"], tuple(item["policies"]), tuple(item["egress_ids"]), ways)
