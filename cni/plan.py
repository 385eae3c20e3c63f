"""The plan of a node, as data: the agent writes it, and the plugin can apply it without the agent.

Everything here is plain, frozen and has one JSON form (``plan.json``). The agent decides who is master and which
prefixes win; the plan has the results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from typing import Any

from .kernel import ids
from .label_selector import NAMESPACE_LABEL, PodIdentity, Requirement, Selector, matches
from .plan_objects import Destination, PlanEgressIP, PlanNode, PlanPolicy, PolicySet, SetKey

__all__ = [
    "NAMESPACE_LABEL",
    "VERSION",
    "Destination",
    "Plan",
    "PlanEgressIP",
    "PlanNode",
    "PlanPolicy",
    "PodIdentity",
    "PolicySet",
    "Requirement",
    "Selector",
    "SetKey",
    "choose",
    "dumps",
    "loads",
    "matches",
]  # fmt: skip

VERSION = 4
READABLE = (2, 3, VERSION)
"""A plan of version 2 lacks ``uplinks``, ``reserved_sources``, ``node_links`` and ``cluster_port``. In one of version 3
each egress IP has a slot, which is its ``inlet``, too."""
COMPLETE = (3, VERSION)
"""A complete ruleset follows from a plan of these versions."""
_LISTS = ("uplinks", "reserved_sources", "egress_sources", "node_links", "overlay_addresses")
_PLAIN = {"str": str, "int": int, "bool": bool}
"""Types of fields, by their annotation."""


@dataclass(frozen=True)
class Plan:
    """The whole plan of one node. ``nodes`` are all nodes of the inventory, this one included, sorted by name."""

    node: str
    mask: int
    port: int
    mtu: int
    """MTU of the tunnel devices, bytes."""
    nodes: tuple[PlanNode, ...] = ()
    egress_ips: tuple[PlanEgressIP, ...] = ()
    policies: tuple[PlanPolicy, ...] = ()
    policy_sets: tuple[PolicySet, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Labels of the namespaces, for ``namespaceSelector``."""
    knows_namespaces: bool = False
    """The store has an object for each namespace, so one that the plan does not have is newer than the plan."""
    isolated: bool = False
    """True if this node has no contact to a majority of the voters: it forwards no new connections for others."""
    source_check: bool = True
    """The kernel takes an IPv4 packet out of a tunnel only if a route leads to its source. If nodes have only IPv6
    addresses, or connections are synced, there need be none."""
    uplinks: tuple[str, ...] = ()
    """Interfaces of this node that lead to other machines, sorted: the source of a packet may route back by another
    interface than the one by which the packet came."""
    reserved_sources: tuple[str, ...] = ()
    """Virtual addresses and addresses of nodes, sorted: no pod may send with one of them as its source."""
    egress_sources: tuple[str, ...] = ()
    """Those of them that the outside sees of gateways and no Node object names, sorted: a pod may not have one as its
    own address, either."""
    overlay_ports: tuple[int, ...] = ()
    """UDP ports at which overlay devices of other programs on this node take packets, sorted."""
    overlay_addresses: tuple[str, ...] = ()
    """Addresses of this node at which these devices take packets, sorted; not those that only its pods need."""
    node_links: tuple[str, ...] = ()
    """Interfaces, sorted, by which packets of another node may come besides the one that leads back to that node."""
    cluster_port: int = 0
    """UDP port of the lease daemons; 0: no port is guarded."""
    sets_port: int = 0
    """TCP port at which agents give each other manifests; 0: no agent does, and no port is guarded."""
    version: int = VERSION
    """Version of the format that the plan was read in. An older plan numbers slots and sets, but gives no complete
    ruleset."""

    @property
    def layout(self) -> ids.MarkLayout:
        """The use of the mark's bits."""
        return ids.MarkLayout(self.mask)

    @cached_property
    def me(self) -> PlanNode | None:
        """The entry of the plan's node in the inventory; None if it has none."""
        return next((node for node in self.nodes if node.name == self.node), None)

    @cached_property
    def node_names(self) -> frozenset[str]:
        """The names of all nodes."""
        return frozenset(node.name for node in self.nodes)

    @cached_property
    def outgoing(self) -> tuple[PlanEgressIP, ...]:
        """The egress IPs by which pods of this node leave, or may leave by policy sets of this plan."""
        return tuple(egress for egress in self.egress_ips if egress.slot)

    @cached_property
    def incoming(self) -> tuple[PlanEgressIP, ...]:
        """The egress IPs of whose tunnels this node takes packets in, if it is their master."""
        return tuple(egress for egress in self.egress_ips if egress.inlet)

    @cached_property
    def tunnels(self) -> tuple[PlanEgressIP, ...]:
        """The egress IPs of which this node has a tunnel device."""
        return tuple(egress for egress in self.egress_ips if egress.slot or egress.inlet)

    @cached_property
    def by_id(self) -> Mapping[str, PlanEgressIP]:
        """The egress IPs by their ids."""
        return {egress.id: egress for egress in self.egress_ips}

    @cached_property
    def serving(self) -> frozenset[str]:
        """Names of the nodes that are or can be master of an egress IP."""
        # A master that is no longer eligible serves until another one is known.
        return frozenset(name for egress in self.egress_ips for name in (*egress.eligible, egress.master))

    @cached_property
    def _ids_by_gateway(self) -> Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        found: dict[str, tuple[list[str], list[str]]] = {}
        for egress in self.egress_ips:
            found.setdefault(egress.gateway, ([], []))[egress.family == 6].append(egress.id)
        return {name: (tuple(ids4), tuple(ids6)) for name, (ids4, ids6) in found.items()}

    def serves(self, egress: PlanEgressIP) -> bool:
        """Return True if this node is the master: its own pods leave by the egress interface, without a tunnel."""
        return bool(egress.master) and egress.master == self.node

    def policies_for(self, pod: PodIdentity) -> tuple[str, ...] | None:
        """Return the sorted names of the policies that select the pod; None if that depends on unknown labels."""
        answers = {p.name: p.selects(pod, self.namespaces.get(pod.namespace)) for p in self.policies}
        if None in answers.values():
            return None
        return tuple(sorted(name for name, selected in answers.items() if selected))

    def hangs_on_namespace(self, pod: PodIdentity) -> bool:
        """Return True if a policy may select the pod by labels of its namespace that are newer than this plan."""
        if not self.knows_namespaces or pod.namespace in self.namespaces:
            return False
        selectors = [selector for policy in self.policies for selector in policy.selectors]
        return any(selector.asks_namespace_of(pod) for selector in selectors)

    def ids_of(self, gateway: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return ids of a gateway's egress IPs for IPv4 and for IPv6; without one of a family, those of the other."""
        ids4, ids6 = self._ids_by_gateway.get(gateway, ((), ()))
        return ids4 or ids6, ids6 or ids4

    def key_for(self, pod: PodIdentity, policies: tuple[str, ...]) -> SetKey | None:
        """Return the key of the policy set that the pod needs with exactly these policies.

        None if a gateway has no egress IP. The egress IPs are those that :func:`choose` gives:
        all policies of one gateway share them.
        """
        gateways = {policy.name: policy.gateway for policy in self.policies}
        chosen = {}
        for name in policies:
            ids4, ids6 = self.ids_of(gateways.get(name, ""))
            if not ids4:
                return None
            chosen[name] = choose(pod, ids4), choose(pod, ids6)
        ids4, ids6 = (tuple(chosen[name][place] for name in policies) for place in (0, 1))
        return policies, ids4, ids6

    def set_for(self, pod: PodIdentity, policies: tuple[str, ...]) -> PolicySet | None:
        """Return the policy set with exactly these policies that this pod uses; None if the plan has none."""
        key = self.key_for(pod, policies)
        return next((s for s in self.policy_sets if s.key == key), None)


def choose(pod: PodIdentity, egress_ids: Sequence[str]) -> str:
    """Return the pod's own among these ids (at least one): the same each time, in any order, on every node.

    Rendezvous hashing (Thaler and Ravishankar, 1998): a pod moves only to an egress IP that is added, and only from
    one that is taken away.
    """
    return _chosen(pod.namespace, pod.name, tuple(egress_ids))


@lru_cache(maxsize=4096)
def _chosen(namespace: str, name: str, egress_ids: tuple[str, ...]) -> str:
    # Cached: a round asks for every pod, and with many addresses that would be tens of milliseconds of hashing.
    def weight(egress_id: str) -> tuple[bytes, str]:
        # Undecodable bytes of CNI_ARGS are surrogates here.
        named = f"{namespace}\0{name}\0{egress_id}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(named).digest(), egress_id

    return max(egress_ids, key=weight)


def dumps(plan: Plan) -> str:
    """Return the JSON form of a plan; equal plans give equal text."""
    # asdict would copy the whole plan, and indent would exclude json's encoder in C: each edit waits for this function.
    return json.dumps(_fields(plan), sort_keys=True, default=_fields) + "\n"


def _fields(item: Any) -> dict[str, Any]:
    named = {field.name: getattr(item, field.name) for field in fields(item)}
    if isinstance(item, PolicySet):
        # The name in the format: plugins and agents of other versions read it.
        named["ways"] = named.pop("destinations")
    return named


def loads(text: str) -> Plan:
    """Return the plan in ``text``. Raises :class:`ValueError` for what is no plan of a readable version."""
    try:
        data = json.loads(text)
        if data["version"] not in READABLE:
            raise ValueError("plan of another version")
        data["nodes"] = tuple(_typed(PlanNode(**node)) for node in data["nodes"])
        data["egress_ips"] = tuple(_egress_ip(item) for item in data["egress_ips"])
        data["policies"] = tuple(_policy(item) for item in data["policies"])
        data["policy_sets"] = tuple(_policy_set(item) for item in data["policy_sets"])
        data.update({name: _texts(data.get(name, [])) for name in _LISTS})
        data["overlay_ports"] = _ports(data.get("overlay_ports", []))
        for labels in data["namespaces"].values():
            _texts([*labels.keys(), *labels.values()])
        # A newer agent may write fields that this program does not know.
        known = {each.name for each in fields(Plan)}
        plan: Plan = _typed(Plan(**{name: value for name, value in data.items() if name in known}))
        ids.MarkLayout(plan.mask)
        return plan
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a plan: {error}") from error


def _typed(item: Any) -> Any:
    """Return ``item`` if its plain fields have their types. Raises :class:`TypeError`."""
    for each in fields(item):
        wanted, value = _PLAIN.get(str(each.type)), getattr(item, each.name)
        if wanted is not None and type(value) is not wanted:
            raise TypeError(f"{each.name}: {type(value).__name__} instead of {each.type}")
    return item


def _texts(items: Any) -> tuple[str, ...]:
    """Return a list of texts as a tuple. Raises :class:`TypeError` for anything else."""
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise TypeError("not a list of texts")
    return tuple(items)


def _ports(items: Any) -> tuple[int, ...]:
    """Return a list of ports as a tuple. Raises :class:`TypeError` for anything else."""
    if not isinstance(items, list) or not all(type(item) is int and 0 < item < 1 << 16 for item in items):
        raise TypeError("not a list of ports")
    return tuple(items)


def _egress_ip(item: dict[str, Any]) -> PlanEgressIP:
    # A newer agent may write fields that this program does not know.
    known = {each.name: item[each.name] for each in fields(PlanEgressIP) if each.name in item}
    egress: PlanEgressIP = _typed(PlanEgressIP(**{**known, "eligible": _texts(item["eligible"])}))
    return egress


def _requirements(items: list[dict[str, Any]] | None) -> tuple[Requirement, ...] | None:
    if items is None:
        return None
    return tuple(_typed(Requirement(i["key"], i["operator"], _texts(i["values"]))) for i in items)


def _policy(item: dict[str, Any]) -> PlanPolicy:
    selectors = tuple(
        Selector(_requirements(s["pods"]) or (), _requirements(s["namespaces"])) for s in item["selectors"]
    )
    policy: PlanPolicy = _typed(PlanPolicy(item["name"], item["gateway"], selectors))
    return policy


def _policy_set(item: dict[str, Any]) -> PolicySet:
    destinations = tuple(Destination(**each) for each in item["ways"])
    if not all(type(part) is str for each in destinations for part in (each.prefix, each.egress_id)):
        raise TypeError("ways: not of texts")
    policies, ids4, ids6 = (_texts(item[field]) for field in ("policies", "egress_ids", "egress_ids6"))
    policy_set: PolicySet = _typed(PolicySet(item["number"], policies, ids4, destinations, ids6))
    return policy_set
