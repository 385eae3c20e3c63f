"""Leave out an object on which planning raises: it becomes a problem, and all other objects are planned. Pure.

Parsing finds the foreseen errors of an object. This module is for the unforeseen ones: an exception in planning, or in
rendering the rules, must not stop every agent of the cluster at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cni.plan import NAMESPACE_LABEL, PodIdentity, Requirement, Selector

from ..manifests.model import Inventory, Policy, Problem
from .planner import Planned

Attempt = Callable[[Inventory], Planned]
KINDS = ("nodes", "gateways", "policies", "service_cidrs", "namespaces", "pods")
"""Order of adding objects: gateways need nodes, and policies need both; policies also read the other kinds."""
SUSPECTS = ("service_cidrs", "namespaces", "pods", "gateways", "nodes", "policies")
"""Order of suspicion: if two objects fail only together, the object of the earlier kind is left out."""
MAX_BAD_OBJECTS = 16
"""Bad objects of one kind up to which the search assumes that no other kind is bad."""


@dataclass(frozen=True)
class Namespace:
    """One of :attr:`gateway_agent.manifests.model.Inventory.namespaces`."""

    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Found:
    """A bad object, which is left out of plans."""

    kind: str
    bad: Any
    problem: Problem
    substitute: tuple[str, Any] | None = None
    """(kind, object) that is planned in place of ``bad``."""


class Quarantine:
    """Remembers the bad objects that the last plan left out. An unchanged bad object is not searched for again."""

    def __init__(self) -> None:
        self._found: tuple[Found, ...] = ()

    def build(self, inventory: Inventory, attempt: Attempt) -> Planned:
        """Return the plan that ``attempt`` makes without the known bad objects. Raises what ``attempt`` does."""
        self._found = tuple(found for found in self._found if found.bad in _objects(inventory, found.kind))
        return _with_problems(attempt(self.without_found(inventory)), self._found)

    def search(self, inventory: Inventory, attempt: Attempt) -> Planned:
        """Find the objects on which ``attempt`` raises, and return the plan of the others.

        The pods of a bad policy are cut off, as if its gateway did not exist: they do not leave by another address. The
        same holds for pods that policies select by the labels of a bad namespace. The labels of a bad pod count as
        unknown. Raises the exception of ``attempt`` if no object is the cause. One bad object among a thousand costs
        about twenty plans.
        """
        try:
            return self.build(inventory, attempt)
        except Exception:
            whole = self.without_found(inventory)
        found = _of_one_kind(whole, attempt)
        all_found = (*self._found, *(_of_all_kinds(whole, attempt) if found is None else found))
        planned = _with_problems(attempt(_without(inventory, all_found)), all_found)
        self._found = all_found
        return planned

    def without_found(self, inventory: Inventory) -> Inventory:
        """Return the inventory with the known bad objects left out or replaced."""
        return _without(inventory, self._found)


def _with_problems(planned: Planned, found: tuple[Found, ...]) -> Planned:
    return replace(planned, problems=(*planned.problems, *(each.problem for each in found)))


def _objects(inventory: Inventory, kind: str) -> tuple[Any, ...]:
    value = getattr(inventory, kind)
    return tuple(Namespace(*item) for item in value.items()) if kind == "namespaces" else tuple(value)


def _put(inventory: Inventory, kind: str, objects: tuple[Any, ...]) -> Inventory:
    value = {each.name: each.labels for each in objects} if kind == "namespaces" else objects
    changed: dict[str, Any] = {kind: value}
    return replace(inventory, **changed)


def _without(inventory: Inventory, found: tuple[Found, ...]) -> Inventory:
    for each in found:
        objects = _objects(inventory, each.kind)
        if each.bad not in objects:
            continue
        inventory = _put(inventory, each.kind, tuple(other for other in objects if other != each.bad))
        if each.substitute is not None:
            kind, substitute = each.substitute
            inventory = _put(inventory, kind, (*_objects(inventory, kind), substitute))
    return inventory


class _TooMany(Exception):
    """More bad objects were found than the search allows."""


def _of_one_kind(whole: Inventory, attempt: Attempt) -> list[Found] | None:
    """Return the bad objects if all are of one kind; else None. If several kinds qualify, the fewest objects win.

    The error of one object often shows only together with another one, as a ``ServiceCIDR`` with a policy. So each kind
    is searched with all objects of the other kinds present.
    """
    best: list[Found] | None = None
    for kind in SUSPECTS:
        others = _put(whole, kind, ())
        if not _objects(whole, kind) or not _works(others, attempt):
            continue
        found: list[Found] = []
        try:
            _with(
                others,
                whole,
                kind,
                _objects(whole, kind),
                attempt,
                found,
                MAX_BAD_OBJECTS if best is None else len(best) - 1,
            )
        except _TooMany:
            continue
        best = found
    return best


def _of_all_kinds(whole: Inventory, attempt: Attempt) -> list[Found]:
    """Return the bad objects of all kinds, adding one kind after the other."""
    found: list[Found] = []
    kept = whole
    for kind in KINDS:
        kept = _put(kept, kind, ())
    for kind in KINDS:
        kept = _with(
            kept, whole, kind, _objects(whole, kind), attempt, found, len(_objects(whole, kind)) + len(found)
        )
    return found


def _with(
    kept: Inventory,
    whole: Inventory,
    kind: str,
    objects: tuple[Any, ...],
    attempt: Attempt,
    found: list[Found],
    most: int,
) -> Inventory:
    """Return ``kept`` with the good ones of ``objects``, by bisection. Bad objects are appended to ``found``.

    Raises _TooMany if more than ``most`` bad objects are found.
    """
    if not objects:
        return kept
    if len(found) > most:
        raise _TooMany
    together = _put(kept, kind, (*_objects(kept, kind), *objects))
    try:
        attempt(together)
    except Exception as error:
        if len(objects) > 1:
            middle = len(objects) // 2
            first = _with(kept, whole, kind, objects[:middle], attempt, found, most)
            return _with(first, whole, kind, objects[middle:], attempt, found, most)
        found.append(_found(kind, objects[0], together, whole, attempt, error))
        if len(found) > most:
            raise _TooMany from error
        return _without(together, tuple(found[-1:]))
    return together


def _found(
    kind: str, bad: Any, together: Inventory, whole: Inventory, attempt: Attempt, error: Exception
) -> Found:
    """Return a bad object with its problem, and with the first replacement of it that can be planned."""
    source, name = _names(kind, bad)
    hint = "the other objects are in force; please report this with the object"
    message = f"{name} cannot be planned: {type(error).__name__}: {error}"
    alone = Found(kind, bad, Problem(source, "", message, hint))
    for substitute in _substitutes(kind, bad, whole):
        with_it = replace(alone, substitute=substitute)
        if _works(_without(together, (with_it,)), attempt):
            return with_it
    return alone


def _works(inventory: Inventory, attempt: Attempt) -> bool:
    try:
        attempt(inventory)
    except Exception:
        return False
    return True


def _substitutes(kind: str, bad: Any, whole: Inventory) -> Iterator[tuple[str, Any]]:
    """Yield (kind, object) replacements of a bad object that keep its pods from leaving by another address."""
    if kind == "policies" and bad.gateway:
        yield kind, replace(bad, gateway="", destinations=(), excluded=())
    if kind == "pods" and bad.labels is not None:
        yield kind, PodIdentity(bad.namespace, bad.name, None)
    if kind == "namespaces":
        # Cut off the pods of this namespace that a policy with a namespaceSelector could select.
        here = Requirement(NAMESPACE_LABEL, "In", (bad.name,))
        selectors = tuple(
            Selector((*selector.pods, here))
            for policy in whole.policies
            for selector in policy.selectors
            if selector.namespaces is not None
        )
        if selectors:
            yield "policies", Policy(f"(namespace {bad.name})", "", selectors, source=f"namespace {bad.name}")


def _names(kind: str, bad: Any) -> tuple[str, str]:
    """Return the source and the name of an object, for a problem."""
    if isinstance(bad, str):
        return f"ServiceCIDR {bad}", bad
    if isinstance(bad, PodIdentity):
        return f"pod {bad.namespace}/{bad.name}", f"{bad.namespace}/{bad.name}"
    return getattr(bad, "source", "") or f"{kind.removesuffix('s')} {bad.name}", str(bad.name)
