"""Choose the policy sets of a plan, and number them: those of pods first, then some in advance.

A policy set stands for the policies that select a pod, each with the egress IP that the pod uses. Its number is part of
the pod's tag. Numbers are few, so not every combination of policies has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, islice, product

from cni.plan import Plan, PodIdentity, PolicySet, SetKey

from ..manifests.model import Problem
from . import id_allocation
from .pods.selection import Selection

PREPARED_SETS = 64
"""Policy sets that a plan holds in advance, so that the plugin can tag a pod while no agent runs."""


def numbered(
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
