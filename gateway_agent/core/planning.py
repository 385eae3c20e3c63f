"""The inventory and what is known of the masters to the plan of one node.

Whatever cannot be served is still in the plan, without a node that could be its master: the packets of the
pods that it selects are dropped and do not leave by another address.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, islice

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP, PlanNode, PlanPolicy, PodIdentity, PolicySet, Way, matches

from . import numbering, policy
from .model import BASIC, Gateway, Inventory, Node, Problem

PREPARED_SETS = 64
"""Policy sets that a plan holds in advance: the plugin may have to tag a pod while no agent runs."""


@dataclass(frozen=True)
class Settings:
    """What the configuration says."""

    node: str
    mask: int
    port: int
    mtu: int
    """Of the tunnel devices, bytes."""
    cluster_cidrs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planned:
    plan: Plan
    problems: tuple[Problem, ...] = ()
    """Found in planning; those of the inventory itself are not repeated."""


def build(
    inventory: Inventory,
    settings: Settings,
    primary_addresses: Mapping[str, str],
    masters: Mapping[str, tuple[str, int]],
    previous: Plan | None = None,
    wanted: Iterable[tuple[str, ...]] = (),
    isolated: bool = False,
) -> Planned:
    """The plan of the node that ``settings`` names.

    ``primary_addresses``: the primary IPv4 address of each local interface. ``masters``: by egress id the
    node (empty: nobody) and its epoch; where an id is missing its last known master stays.
    ``previous``: the plan in force; what goes on existing keeps its numbers. ``wanted``: the combinations of
    policies that the pods attached here need; they come first where the numbers do not suffice.
    """
    problems: list[Problem] = []
    # Numbers mean nothing under another mask.
    before = previous if previous and previous.mask == settings.mask else None
    plan = Plan(
        settings.node,
        settings.mask,
        settings.port,
        settings.mtu,
        nodes=tuple(_nodes(inventory.nodes, settings.node, problems)),
        policies=policies(inventory),
        namespaces=inventory.namespaces,
        isolated=isolated,
    )
    egress_ips = (
        _with_master(_with_source(egress, plan.node, inventory, primary_addresses), masters, previous)
        for egress in _with_slots(_egress_ips(inventory, plan.nodes, problems), plan, before, problems)
    )
    plan = replace(plan, egress_ips=tuple(egress_ips))
    never = tuple(sorted(never_sent(inventory, settings.cluster_cidrs)))
    sets = (
        replace(numbered, ways=_ways(entries(inventory, numbered), never))
        for numbered in _policy_sets(plan, before, wanted, problems)
    )
    return Planned(replace(plan, policy_sets=tuple(sets)), tuple(problems))


def with_sets_in_use(plan: Plan, previous: Plan | None, groups: Collection[int]) -> Plan:
    """``plan`` and the sets before it that some interface's tag still stands for.

    In between the two plans: no tag may lose its set before it is changed, or what goes on being selected would
    be dropped for that moment.
    """
    taken = {s.number for s in plan.policy_sets}
    before = previous.policy_sets if previous and previous.mask == plan.mask else ()
    kept = [s for s in before if s.group in groups and s.number not in taken]
    return replace(plan, policy_sets=tuple(sorted((*plan.policy_sets, *kept), key=lambda s: s.number)))


def policies(inventory: Inventory) -> tuple[PlanPolicy, ...]:
    """Which pods each policy selects, sorted by name."""
    found = (PlanPolicy(p.name, p.gateway, p.selectors) for p in inventory.policies)
    return tuple(sorted(found, key=lambda p: p.name))


def identify(
    inventory: Inventory, namespace: str, name: str, told: Mapping[str, str] | None
) -> PodIdentity:
    """The pod with the labels of its ``Pod`` document, else with those that its CNI call ``told``.

    A pod of which nobody says more has no labels.
    """
    for pod in inventory.pods:
        if (pod.namespace, pod.name) == (namespace, name):
            return pod
    return PodIdentity(namespace, name, told if told is not None else {})


def never_sent(inventory: Inventory, cluster_cidrs: Iterable[str]) -> dict[str, str]:
    """Prefixes that go to no gateway, and why."""
    return policy.never_sent(cluster_cidrs, (a for node in inventory.nodes for a in node.addresses))


def entries(inventory: Inventory, policy_set: PolicySet) -> tuple[policy.Entry, ...]:
    """The destinations of the policies of one set."""
    known = {p.name: p for p in inventory.policies}
    return tuple(
        policy.Entry(name, egress_id, known[name].destinations, known[name].excluded, known[name].created)
        for name, egress_id in zip(policy_set.policies, policy_set.egress_ids, strict=True)
        if name in known
    )


@lru_cache(maxsize=2 * PREPARED_SETS)
def _ways(of: tuple[policy.Entry, ...], never: tuple[str, ...]) -> tuple[Way, ...]:
    """A plan is made anew at each change of a master: sets whose policies stay are not computed again."""
    return policy.disjoint(of, never)


def _nodes(nodes: Iterable[Node], here: str, problems: list[Problem]) -> Iterator[PlanNode]:
    owners: dict[str, str] = {}
    for node in sorted(nodes, key=lambda node: node.name):
        address = next((a for a in node.addresses if ":" not in a), "")
        owner = owners.setdefault(address, node.name) if address else node.name
        if not address:
            message, hint = f"node {node.name} has no IPv4 address", "add {type: InternalIP, address: …}"
            problems.append(Problem(node.source, "status.addresses", message, hint))
        elif owner != node.name:
            message = f"node {node.name} has {address}, which is the address of node {owner}"
            problems.append(Problem(node.source, "status.addresses", message, "each node needs its own"))
        else:
            yield PlanNode(node.name, address, next((a for a in node.addresses if ":" in a), ""))
    if here not in owners.values():
        hint = "its selected pods reach no gateway; nodeName in the configuration names it"
        problems.append(Problem(f"node {here}", "", "the inventory has no such node with an address", hint))


def _egress_ips(
    inventory: Inventory, nodes: Iterable[PlanNode], problems: list[Problem]
) -> list[PlanEgressIP]:
    """The egress IPs of all gateways, and one for each gateway that does not exist but has a policy."""
    placed = {node.name for node in nodes}
    existing = {gateway.name: gateway for gateway in inventory.gateways}
    missing = {p.gateway for p in inventory.policies} - existing.keys()
    names = [*sorted(existing), *sorted(missing)]
    owners: dict[int, str] = {ids.BACK_VNI: "the way back"}
    for name in names:
        owners.setdefault(ids.vni(ids.egress_id(name, "")), name)
    found = []
    for name in names:
        identity = ids.egress_id(name, "")
        vni = ids.vni(identity)
        clash = "" if owners[vni] == name else owners[vni]
        while owners.setdefault(vni, name) != name:
            # It will carry nothing, but two devices cannot have one name.
            vni = vni % 0xFFFFFF + 1
        gateway = existing.get(name, Gateway(name, (), BASIC))
        eligible = _eligible(gateway, inventory.nodes, placed, clash, problems) if name in existing else ()
        direct = gateway.when_no_gateway == "Direct"
        found.append(PlanEgressIP(identity, name, "", 0, vni, eligible, direct=direct, mode=gateway.mode))
    return found


def _eligible(
    gateway: Gateway, nodes: Iterable[Node], placed: set[str], clash: str, problems: list[Problem]
) -> tuple[str, ...]:
    """Names of the nodes that can be master; none, and a problem, where the gateway cannot be served."""
    selected = [node.name for node in nodes if matches(gateway.node_selector, node.labels)]
    names = tuple(sorted(placed.intersection(selected)))
    path, message, hint = "", "", ""
    if gateway.mode != BASIC:
        path, message = "spec.sourceIP.mode", f"this version serves only {BASIC}"
    elif clash:
        path, message, hint = "metadata.name", f"has the tunnel number of {clash}", "give it another name"
    elif not selected:
        path, message, hint = "spec.nodeSelector", "selects no node", "label a Node, or mend the selector"
    elif not names:
        path, message = "spec.nodeSelector", "selects only nodes without an address"
    if not message:
        return names
    dropped = f"gateway {gateway.name}: {message}; its policies' packets have no gateway"
    problems.append(Problem(gateway.source, path, dropped, hint))
    return ()


def _with_source(
    egress: PlanEgressIP, here: str, inventory: Inventory, primary_addresses: Mapping[str, str]
) -> PlanEgressIP:
    """With the egress interface and its address, where this node is eligible."""
    if here not in egress.eligible:
        return egress
    interface = next(gateway.interface for gateway in inventory.gateways if gateway.name == egress.gateway)
    return replace(egress, interface=interface, source=primary_addresses.get(interface, ""))


def _with_master(
    egress: PlanEgressIP, masters: Mapping[str, tuple[str, int]], previous: Plan | None
) -> PlanEgressIP:
    """With its master, where that is one of the eligible nodes: to others no tunnel leads."""
    last = next((e for e in previous.egress_ips if e.id == egress.id), egress) if previous else egress
    node, epoch = masters.get(egress.id, (last.master, last.epoch))
    return replace(egress, master=node if node in egress.eligible else "", epoch=epoch)


def _with_slots(
    egress_ips: Sequence[PlanEgressIP], plan: Plan, before: Plan | None, problems: list[Problem]
) -> Iterator[PlanEgressIP]:
    old = {egress.id: egress.slot for egress in before.egress_ips} if before else {}
    slots = numbering.assign((egress.id for egress in egress_ips), old, plan.layout.numbers)
    for egress in egress_ips:
        if egress.id in slots:
            yield replace(egress, slot=slots[egress.id])
        else:
            message = f"no number is left for it: mark mask {plan.mask:#x} holds {plan.layout.numbers}"
            hint = "widen mark.mask in the configuration; the pods that its policies select are blocked"
            problems.append(Problem(f"gateway {egress.gateway}", "", message, hint))


def _policy_sets(
    plan: Plan, before: Plan | None, wanted: Iterable[tuple[str, ...]], problems: list[Problem]
) -> list[PolicySet]:
    """By number, without their ways: the wanted combinations, each policy alone, then others in advance."""
    egress_ids = {egress.gateway: egress.id for egress in plan.egress_ips}
    # A policy whose gateway has no number is in no set: its pods are blocked rather than let out.
    led = {p.name: egress_ids[p.gateway] for p in plan.policies if p.gateway in egress_ids}
    needed = _needed(sorted(led), wanted)
    holds = plan.layout.numbers
    if len(needed) > holds:
        message = f"{len(needed)} policy sets are needed, mark mask {plan.mask:#x} holds {holds}"
        hint = "widen it, or use fewer policies; the pods of the others are blocked"
        problems.append(Problem("configuration", "mark.mask", message, hint))
    keys = [(names, tuple(led[name] for name in names)) for names in _prepared(sorted(led), needed)[:holds]]
    old = {(s.policies, s.egress_ids): s.number for s in before.policy_sets} if before else {}
    numbers = numbering.assign(keys, old, holds)
    return sorted((PolicySet(numbers[key], *key, ()) for key in keys), key=lambda s: s.number)


def _needed(names: Sequence[str], wanted: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The wanted combinations of policies that exist, then each policy alone."""
    asked = sorted({tuple(sorted(combination)) for combination in wanted} - {()})
    existing = [combination for combination in asked if set(combination) <= set(names)]
    return list(dict.fromkeys([*existing, *((name,) for name in names)]))


def _prepared(names: Sequence[str], needed: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """What is needed and then, by growing size, other combinations, until there are :data:`PREPARED_SETS`."""
    larger = (combination for size in range(2, len(names) + 1) for combination in combinations(names, size))
    spare = max(0, PREPARED_SETS - len(needed))
    return needed + list(islice((combination for combination in larger if combination not in needed), spare))
