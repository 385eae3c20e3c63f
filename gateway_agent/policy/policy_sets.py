"""Choose the policy sets of a plan, and number them: those of pods first, then some in advance.

A policy set represents the policies that select a pod, each with the egress IP that the pod uses. Its number is part of
the pod's tag. Numbers are few, so not every combination of policies has one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import combinations, islice, product

from cni.plan import Plan, PodIdentity, PolicySet, SetKey

from ..manifests.model import Problem
from . import id_allocation
from .pods.selection import Selection

PREPARED_SETS = 64
"""Policy sets that a plan holds in advance, so that the plugin can tag a pod while no agent runs."""
MAX_POLICIES_ALONE = 126
"""Largest number of policies for each of which a policy set is prepared."""


def needed(plan: Plan, pods: Iterable[PodIdentity], problems: list[Problem]) -> list[SetKey]:
    """Return the keys of the policy sets that the pods need, sorted, except those of gateways without an egress IP.

    The result has no more keys than there are numbers.
    """
    selection = Selection(plan)
    keys = sorted({key for pod in pods if (key := selection.key_for(pod)) is not None})
    holds = plan.layout.sets
    if len(keys) > holds:
        message = f"{len(keys)} policy sets are needed, mark mask {plan.mask:#x} holds {holds}"
        hint = "widen it, or use fewer policies or addresses; the pods of the others are blocked"
        problems.append(Problem("configuration", "mark.mask", message, hint))
    return keys[:holds]


def prepared(plan: Plan, in_use: Collection[SetKey]) -> list[SetKey]:
    """Return the keys of sets for pods that start while no agent runs: of each policy alone, then of combinations.

    ``in_use``: the sets that pods need. Both together are no more than there are numbers.
    """
    # Policies without an egress IP are in no set: their pods are blocked rather than let out.
    led = {policy.name: policy.gateway for policy in plan.policies if plan.ids_of(policy.gateway)[0]}
    room = plan.layout.sets - len(in_use)
    alone = dict.fromkeys(next(_keys(plan, led, (name,))) for name in islice(led, MAX_POLICIES_ALONE))
    known = dict.fromkeys([*in_use, *alone])
    others = (key for key in _combinations(plan, led) if key not in known)
    more = islice(others, max(0, PREPARED_SETS - len(known)))
    return [*(key for key in alone if key not in set(in_use)), *more][:room]


def numbered(
    plan: Plan, before: Plan | None, in_use: Collection[SetKey], in_advance: Iterable[SetKey]
) -> list[PolicySet]:
    """Return the policy sets without their destinations, sorted by number.

    ``in_use``: those that pods need. Of the others, ``in_advance``, the plan has those with all egress IPs numbered.
    """
    slots = {egress.id for egress in plan.outgoing}
    ready = (key for key in in_advance if slots.issuperset((*key[1], *key[2])))
    keys = [*in_use, *ready]
    old = {s.key: s.number for s in before.policy_sets} if before else {}
    numbers = id_allocation.assign(keys, old, plan.layout.sets)
    sets = (PolicySet(numbers[key], key[0], key[1], (), key[2]) for key in keys)
    return sorted(sets, key=lambda s: s.number)


def _combinations(plan: Plan, led: Mapping[str, str]) -> Iterator[SetKey]:
    """Yield the key of every possible policy set, by growing size.

    Their number is exponential: callers take only a few.
    """
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
