"""Compute the plan of one node from the inventory, the kernel's interfaces and the masters.

A policy or egress IP that cannot be served is in the plan, without an eligible node: the packets of the pods that it
selects are dropped and do not leave by another address.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from cni.plan import Destination, Plan, PlanNode, PlanPolicy, PodIdentity, PolicySet

from ..manifests.model import Inventory, Node, Problem
from . import egress_ips, numbers, policy_sets, underlay
from . import precedence as policy
from .egress_node import readiness
from .egress_node.readiness import InterfaceFacts
from .pods import pod_sources

MAX_CACHED_SETS = 1024
"""Policy sets whose computed destinations are cached."""


@dataclass(frozen=True)
class Settings:
    """The values of the configuration that a plan depends on."""

    node: str
    mask: int
    port: int
    mtu: int
    """MTU of the tunnel devices, bytes."""
    cluster_cidrs: tuple[str, ...] = ()
    cluster_port: int = 0
    """UDP port of the lease daemons; 0: no rules guard it."""
    sets_port: int = 0
    """TCP port at which agents send each other manifests; 0: unused, and no rules guard it."""
    tables: Mapping[str, int] = field(default_factory=dict)
    """Numbers of this node's routing tables by name."""


@dataclass(frozen=True)
class Planned:
    """A plan, and the problems found while it was computed."""

    plan: Plan
    problems: tuple[Problem, ...] = ()
    """Problems except those of the inventory itself."""


def build(
    inventory: Inventory,
    settings: Settings,
    facts: Mapping[str, InterfaceFacts],
    masters: Mapping[str, tuple[str, int]],
    previous: Plan | None = None,
    pods: Iterable[PodIdentity] = (),
    isolated: bool = False,
    pod_interfaces: Collection[str] = (),
    shown: Iterable[str] = (),
) -> Planned:
    """Return the plan of the node ``settings.node``.

    ``inventory``: with the nodes' own addresses only, see :func:`gateway_agent.policy.node_addresses.own_only`.
    ``facts``: by name of each local interface. ``masters``: (node, epoch) by egress id; an empty node means no master;
    an id that is missing keeps its last known master. ``previous``: the plan in force; egress IPs and policy sets that
    are in both plans keep their numbers. ``pods``: the pods attached to this node; their policy sets come first if
    numbers are short. ``isolated``: True if this node has no contact with a majority of the voters. ``pod_interfaces``:
    the host-side interfaces of pods. ``shown``: source addresses that masters report.
    """
    problems: list[Problem] = []
    # Numbers of a plan with another mask have no meaning.
    before = previous if previous and previous.mask == settings.mask else None
    plan = _with_objects(inventory, settings, isolated, problems)
    found = egress_ips.of(inventory, plan.nodes, problems)
    led = egress_ips.with_masters(found, plan.nodes, masters, previous)
    gateways, tables = inventory.gateways, settings.tables
    placed = egress_ips.with_sources(led, plan.node, gateways, facts, pod_interfaces, tables)
    plan = numbers.with_inlets(replace(plan, egress_ips=tuple(placed)), before)
    needed = policy_sets.needed(plan, pods, problems)
    prepared = policy_sets.prepared(plan, needed)
    plan = numbers.with_slots(plan, before, needed, prepared, gateways, problems)
    plan = _with_sources(plan, inventory, facts, shown)
    problems += on_host(plan, inventory)
    never = tuple(sorted(never_sent(inventory, settings.cluster_cidrs)))
    sets = (
        replace(each, destinations=_destinations(entries(inventory, each), never))
        for each in policy_sets.numbered(plan, before, needed, prepared)
    )
    return Planned(replace(plan, policy_sets=tuple(sets)), tuple(problems))


def _with_objects(inventory: Inventory, settings: Settings, isolated: bool, problems: list[Problem]) -> Plan:
    """Return a plan with the nodes, policies and namespaces of the inventory."""
    return Plan(
        settings.node,
        settings.mask,
        settings.port,
        settings.mtu,
        nodes=_nodes(inventory.nodes, settings.node, problems),
        policies=policies(inventory),
        namespaces=inventory.namespaces,
        knows_namespaces=inventory.knows_pods,
        isolated=isolated,
        cluster_port=settings.cluster_port,
        sets_port=settings.sets_port,
    )


def _with_sources(
    plan: Plan, inventory: Inventory, facts: Mapping[str, InterfaceFacts], shown: Iterable[str]
) -> Plan:
    """Return the plan with the addresses and links that the checks of packets' sources need."""
    shown = tuple(shown)
    return replace(
        plan,
        source_check=readiness.source_check(facts),
        uplinks=pod_sources.uplinks(plan, facts),
        node_links=pod_sources.node_links(facts),
        reserved_sources=pod_sources.reserved(inventory, plan, facts, shown),
        egress_sources=pod_sources.egress_sources(inventory, plan, shown),
        overlay_ports=pod_sources.overlay_ports(facts),
        overlay_addresses=pod_sources.overlay_addresses(inventory, plan, facts),
    )


def with_sets_in_use(plan: Plan, previous: Plan | None, groups: Collection[int]) -> Plan:
    """Return ``plan`` with the policy sets of ``previous`` whose group is still on an interface (``groups``).

    The returned plan is in force between the two plans: if a set vanished before the tags of its pods change, packets
    of pods that remain selected would be dropped for a moment.
    """
    taken = {s.number for s in plan.policy_sets}
    before = previous.policy_sets if previous and previous.mask == plan.mask else ()
    kept = [s for s in before if s.group in groups and s.number not in taken]
    if previous and kept:
        plan = numbers.kept(plan, previous, {each.egress_id for s in kept for each in s.destinations})
    return replace(plan, policy_sets=tuple(sorted((*plan.policy_sets, *kept), key=lambda s: s.number)))


def policies(inventory: Inventory) -> tuple[PlanPolicy, ...]:
    """Return the policies in the form of the plan, sorted by name."""
    found = (PlanPolicy(p.name, p.gateway, p.selectors) for p in inventory.policies)
    return tuple(sorted(found, key=lambda p: p.name))


def identify(
    inventory: Inventory, namespace: str, name: str, call_labels: Mapping[str, str] | None, uid: str = ""
) -> PodIdentity:
    """Return the pod with the labels of its ``Pod`` document, else with the labels of its CNI call (``call_labels``).

    If neither has labels, they are unknown (None), which differs from no labels: a policy may select the pod.
    Two pods can have the same name in turn, so the document counts only if its uid is ``uid`` or one of the two uids
    is unknown.
    """
    key = namespace, name
    known = inventory.pods_by_name.get(key)
    if known is not None and (not uid or inventory.uids.get(key, uid) == uid):
        return known
    return PodIdentity(namespace, name, call_labels)


def never_sent(inventory: Inventory, cluster_cidrs: Iterable[str]) -> dict[str, str]:
    """Return the prefixes that are never steered to a gateway, each with the reason."""
    pods = (cidr for node in inventory.nodes for cidr in node.pod_cidrs)
    networks = (*cluster_cidrs, *pods, *inventory.service_cidrs)
    virtual = inventory.virtual_addresses
    external = (a for node in inventory.nodes for a in node.external if a not in virtual)
    return policy.never_sent(networks, (*(a for node in inventory.nodes for a in node.addresses), *external))


def entries(inventory: Inventory, policy_set: PolicySet) -> tuple[policy.Entry, ...]:
    """Return the destinations of the policies of one set."""
    known = inventory.policies_by_name
    return tuple(
        policy.Entry(name, id4, known[name].destinations, known[name].excluded, known[name].created, id6)
        for name, id4, id6 in zip(*policy_set.key, strict=True)
        if name in known
    )


@lru_cache(maxsize=MAX_CACHED_SETS)
def _destinations(of: tuple[policy.Entry, ...], never: tuple[str, ...]) -> tuple[Destination, ...]:
    """Return the destinations of a policy set. Cached, because each change of a master makes a new plan."""
    return policy.disjoint(of, never)


def _nodes(nodes: Iterable[Node], here: str, problems: list[Problem]) -> tuple[PlanNode, ...]:
    placed = underlay.place(nodes, problems)
    if here not in (node.name for node in placed):
        hint = "its selected pods reach no gateway; nodeName in the configuration names it"
        problems.append(Problem(f"node {here}", "", "the inventory has no such node with an address", hint))
    return placed


def selected_on_host(plan: Plan, inventory: Inventory) -> Iterator[tuple[PodIdentity, tuple[str, ...]]]:
    """Yield the ``hostNetwork`` pods of this node that policies select, each with the names of these policies."""
    for key, node in sorted(inventory.on_host.items()):
        pod = inventory.pods_by_name.get(key)
        selecting = plan.policies_for(pod) if pod is not None and node in ("", plan.node) else None
        if pod is not None and selecting:
            yield pod, selecting


def on_host(plan: Plan, inventory: Inventory) -> Iterator[Problem]:
    """Yield a problem for each ``hostNetwork`` pod of this node that policies select."""
    hint = "let no policy select it, or give it a network of its own"
    for pod, selecting in selected_on_host(plan, inventory):
        message = (
            f"policy {', '.join(selecting)} selects it, but it uses the node's network, and its packets leave with "
            "the node's address"
        )
        yield Problem(f"pod {pod.namespace}/{pod.name}", "spec.hostNetwork", message, hint)
