"""Find policies that select no pod of the cluster, by queries to the API: an agent knows only its own node's pods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cni.plan import NAMESPACE_LABEL, Requirement, Selector

from ..manifests.model import Policy
from .k8s_events import EventRecord
from .reflector import Object, key_of

SELECTS_NOTHING = "SelectsNothing"
SETTLE_S = 30.0
"""Seconds from a new policy to the query: its pods may be created right after it."""
MAX_NAMESPACE_QUERIES = 20
"""Namespaces up to which each one is queried. Above, one query covers all namespaces and may find too much."""
NAME = "kubernetes.io/metadata.name"


State = tuple[str, str, int]
"""(name, uid, generation) of a policy."""


@dataclass(frozen=True)
class PodQuery:
    """A query for the existence of a pod. ``namespace``: empty for all namespaces."""

    namespace: str
    label_selector: str


class EmptyPolicyChecker:
    """The policies that have been checked. Times are seconds of any clock."""

    def __init__(self) -> None:
        self._since: dict[State, float] = {}
        self._answered: set[State] = set()

    def due(self, objects: Iterable[Object], now: float) -> State | None:
        """Return the next policy to check, of those among the objects; None if none is due."""
        states = {_state(item) for item in objects if item.get("kind") == "EgressGatewayPolicy"}
        self._since = {state: self._since.get(state, now) for state in states}
        self._answered &= states
        return next((s for s in sorted(states - self._answered) if now - self._since[s] >= SETTLE_S), None)

    def postpone(self, state: State, now: float) -> None:
        """Check a policy again after :data:`SETTLE_S`, since the API did not answer."""
        self._since[state] = now

    def answered(self, state: State) -> None:
        """Note that a policy has been checked."""
        self._answered.add(state)


def questions(policy: Policy, namespaces: Mapping[str, Mapping[str, str]]) -> list[PodQuery]:
    """Return the queries for a policy. It selects a pod if one query finds any. ``namespaces``: labels by name."""
    return [question for selector in policy.selectors for question in _of(selector, namespaces)]


def selects_nothing(name: str, now: float) -> EventRecord:
    """Return the Event for a policy that selects no pod. ``now``: Unix time, seconds."""
    message = (
        "no pod of the cluster is selected by it: see its selectors, and the labels of pods and namespaces"
    )
    return EventRecord("EgressGatewayPolicy", name, SELECTS_NOTHING, message, now, warning=True)


def _state(item: Object) -> State:
    metadata = item.get("metadata") or {}
    return key_of(item)[1], str(metadata.get("uid") or ""), int(metadata.get("generation") or 0)


def _of(selector: Selector, namespaces: Mapping[str, Mapping[str, str]]) -> list[PodQuery]:
    about = [term for term in selector.pods if term.key == NAMESPACE_LABEL]
    labels = ",".join(_written(term) for term in selector.pods if term.key != NAMESPACE_LABEL)
    if not about and selector.namespaces is None:
        return [PodQuery("", labels)]
    chosen = sorted(
        name
        for name, known in namespaces.items()
        if _hold(about, {NAMESPACE_LABEL: name}) and _hold(selector.namespaces or (), {NAME: name, **known})
    )
    return (
        [PodQuery(name, labels) for name in chosen]
        if len(chosen) <= MAX_NAMESPACE_QUERIES
        else [PodQuery("", labels)]
    )


def _hold(terms: Iterable[Requirement], labels: Mapping[str, str]) -> bool:
    return all(term.holds(labels) for term in terms)


def _written(term: Requirement) -> str:
    """Return a requirement in the syntax of a label selector in a query."""
    match term.operator:
        case "Exists":
            return term.key
        case "DoesNotExist":
            return f"!{term.key}"
        case "In":
            return f"{term.key} in ({','.join(term.values)})"
        case _:
            return f"{term.key} notin ({','.join(term.values)})"
