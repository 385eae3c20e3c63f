"""Compute the plan of one node from the inventory, the kernel's interfaces and the masters.

A policy or egress IP that cannot be served is in the plan, without an eligible node: the packets of the pods that it
selects are dropped and do not leave by another address.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations, islice, product

from cni.plan import Destination, Plan, PlanEgressIP, PlanNode, PlanPolicy, PodIdentity, PolicySet, SetKey

from ..manifests.model import Inventory, Node, Problem
from . import egress_ips, id_allocation, underlay
from . import precedence as policy
from .egress_node import readiness
from .egress_node.readiness import InterfaceFacts
from .pods import pod_sources
from .pods.selection import Selection

PREPARED_SETS = 64
"""Policy sets that a plan holds in advance, so that the plugin can tag a pod while no agent runs."""
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
    """UDP port of the lease daemons; 0: it is not guarded."""
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
    numbers are short. ``isolated``: this node has no contact to a majority of the voters. ``pod_interfaces``: the
    host-side interfaces of pods. ``shown``: source addresses that masters report.
    """
    problems: list[Problem] = []
    # Numbers of a plan with another mask have no meaning.
    before = previous if previous and previous.mask == settings.mask else None
    plan = Plan(
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
    )
    found = tuple(egress_ips.of(inventory, plan.nodes, problems))
    led = (
        egress_ips.with_master(egress, plan.nodes, masters, previous)
        for egress in _with_slots(found, plan, before, problems)
    )
    placed = (
        egress_ips.with_source(egress, plan.node, inventory.gateways, facts, pod_interfaces, settings.tables)
        for egress in led
    )
    plan = replace(plan, egress_ips=tuple(placed))
    plan = replace(
        plan,
        source_check=readiness.source_check(facts),
        uplinks=pod_sources.uplinks(plan, facts),
        node_links=pod_sources.node_links(facts),
        reserved_sources=pod_sources.reserved(inventory, plan, shown),
    )
    problems += _unrouted(plan, facts)
    problems += _on_host(plan, inventory)
    never = tuple(sorted(never_sent(inventory, settings.cluster_cidrs)))
    sets = (
        replace(numbered, destinations=_destinations(entries(inventory, numbered), never))
        for numbered in _policy_sets(plan, before, pods, problems)
    )
    return Planned(replace(plan, policy_sets=tuple(sets)), tuple(problems))


def with_sets_in_use(plan: Plan, previous: Plan | None, groups: Collection[int]) -> Plan:
    """Return ``plan`` with the policy sets of ``previous`` whose group is still on an interface (``groups``).

    It is in force between the two plans: if a set vanished before the tags of its pods are changed, packets of pods
    that remain selected would be dropped for that moment.
    """
    taken = {s.number for s in plan.policy_sets}
    before = previous.policy_sets if previous and previous.mask == plan.mask else ()
    kept = [s for s in before if s.group in groups and s.number not in taken]
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


def _unrouted(plan: Plan, facts: Mapping[str, InterfaceFacts]) -> Iterator[Problem]:
    """Yield a problem if the kernel would drop IPv4 answers that come out of a tunnel."""
    used = any(egress.family == 4 for egress in plan.egress_ips)
    if used and plan.me and not readiness.takes_ipv4(facts, derived=True):
        hint = "sysctl -w net.ipv4.conf.all.rp_filter=0, or add a route"
        yield Problem(f"node {plan.node}", "", readiness.UNROUTED, hint)


def selected_on_host(plan: Plan, inventory: Inventory) -> Iterator[tuple[PodIdentity, tuple[str, ...]]]:
    """Yield the ``hostNetwork`` pods of this node that policies select, each with the names of these policies."""
    for key, node in sorted(inventory.on_host.items()):
        pod = inventory.pods_by_name.get(key)
        selecting = plan.policies_for(pod) if pod is not None and node in ("", plan.node) else None
        if pod is not None and selecting:
            yield pod, selecting


def _on_host(plan: Plan, inventory: Inventory) -> Iterator[Problem]:
    hint = "let no policy select it, or give it a network of its own"
    for pod, selecting in selected_on_host(plan, inventory):
        message = (
            f"policy {', '.join(selecting)} selects it, but it uses the node's network, and its packets leave with "
            "the node's address"
        )
        yield Problem(f"pod {pod.namespace}/{pod.name}", "spec.hostNetwork", message, hint)


def _with_slots(
    found: Sequence[PlanEgressIP], plan: Plan, before: Plan | None, problems: list[Problem]
) -> Iterator[PlanEgressIP]:
    old = {egress.id: egress.slot for egress in before.egress_ips} if before else {}
    slots = id_allocation.assign((egress.id for egress in found), old, plan.layout.numbers)
    for egress in found:
        if egress.id in slots:
            yield replace(egress, slot=slots[egress.id])
        else:
            message = f"no number is left for it: mark mask {plan.mask:#x} holds {plan.layout.numbers}"
            hint = (
                "widen mark.mask in the configuration; pods of a gateway without another address are blocked"
            )
            problems.append(Problem(f"gateway {egress.gateway} {egress.address}".rstrip(), "", message, hint))


def _policy_sets(
    plan: Plan, before: Plan | None, pods: Iterable[PodIdentity], problems: list[Problem]
) -> list[PolicySet]:
    """Return the policy sets without their destinations, sorted by number.

    If numbers are short, the sets that pods need come first, then each policy alone, then combinations in advance.
    """
    # A policy whose gateway has no number is in no set: its pods are blocked rather than let out.
    led = {policy.name: policy.gateway for policy in plan.policies if plan.ids_of(policy.gateway)[0]}
    needed = _needed(plan, pods)
    holds = plan.layout.numbers
    if len(needed) > holds:
        message = f"{len(needed)} policy sets are needed, mark mask {plan.mask:#x} holds {holds}"
        hint = "widen it, or use fewer policies or addresses; the pods of the others are blocked"
        problems.append(Problem("configuration", "mark.mask", message, hint))
    # For pods that start while no agent runs: each policy alone, then combinations of policies.
    alone = dict.fromkeys(next(_keys(plan, led, (name,))) for name in led)
    prepared = dict.fromkeys([*needed, *alone])
    others = (key for key in _combinations(plan, led) if key not in prepared)
    keys = [*prepared, *islice(others, max(0, PREPARED_SETS - len(prepared)))][:holds]
    old = {s.key: s.number for s in before.policy_sets} if before else {}
    numbers = id_allocation.assign(keys, old, holds)
    sets = (PolicySet(numbers[key], key[0], key[1], (), key[2]) for key in keys)
    return sorted(sets, key=lambda s: s.number)


def _needed(plan: Plan, pods: Iterable[PodIdentity]) -> list[SetKey]:
    """Return the keys of the policy sets that the pods need, sorted, except those of gateways without an egress IP."""
    selection = Selection(plan)
    return sorted({key for pod in pods if (key := selection.key_for(pod)) is not None})


def _combinations(plan: Plan, led: Mapping[str, str]) -> Iterator[SetKey]:
    """Yield the key of every possible policy set, by growing size. Their number is exponential: take a few."""
    for size in range(1, len(led) + 1):
        for names in combinations(led, size):
            yield from _keys(plan, led, names)


def _keys(plan: Plan, led: Mapping[str, str], names: tuple[str, ...]) -> Iterator[SetKey]:
    """Yield the keys of the sets with exactly these policies: one for each choice of egress IPs.

    ``led``: gateway by policy. All policies of one gateway use the same egress IP of it.
    """
    gateways = dict.fromkeys(led[name] for name in names)
    for choice in product(*(_choices(plan, gateway) for gateway in gateways)):
        by_gateway = dict(zip(gateways, choice, strict=True))
        ids4, ids6 = (tuple(by_gateway[led[name]][place] for name in names) for place in (0, 1))
        yield names, ids4, ids6


def _choices(plan: Plan, gateway: str) -> list[tuple[str, str]]:
    """Return the pairs (IPv4 egress id, IPv6 egress id) of a gateway that a pod can use."""
    ids4, ids6 = plan.ids_of(gateway)
    return list(zip(ids4, ids6, strict=True)) if ids4 == ids6 else list(product(ids4, ids6))
