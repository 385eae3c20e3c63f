"""Plans in spite of an object that planning fails on: that object gets a problem, and all others their plan. Pure.

What can be wrong with an object is found when it is read. This is for what no reader foresaw: an exception while the
plan is made must not end every agent of the cluster at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .model import Inventory, Policy, Problem
from .planning import Planned

Attempt = Callable[[Inventory], Planned]
KINDS = ("nodes", "gateways", "policies")
"""In this order: a gateway's plan needs the nodes, a policy's both."""


class Quarantine:
    """The objects that the last plan was made without. They are not looked for again as long as they stay the same."""

    def __init__(self) -> None:
        self._found: list[tuple[Any, Problem]] = []

    def build(self, inventory: Inventory, attempt: Attempt) -> Planned:
        """Return the plan that ``attempt`` makes of ``inventory``, less the objects on which ``attempt`` fails.

        The pods of a policy that is left out are cut off, as those of a policy whose gateway does not exist: they are
        not let out by another address. Raises what ``attempt`` does if none of the objects is the cause.
        """
        self._found = [each for each in self._found if _holds(inventory, each[0])]
        try:
            return self._without_found(inventory, attempt)
        except Exception:
            self._found = []
            kept = replace(inventory, nodes=(), gateways=(), policies=())
        for kind in KINDS:
            kept = _with(kept, kind, getattr(inventory, kind), attempt, self._found)
        return self._without_found(inventory, attempt)

    def _without_found(self, inventory: Inventory, attempt: Attempt) -> Planned:
        for bad, _ in self._found:
            inventory = _without(inventory, bad)
        planned = attempt(inventory)
        return replace(planned, problems=(*planned.problems, *(problem for _, problem in self._found)))


def _holds(inventory: Inventory, wanted: Any) -> bool:
    return any(wanted == each for kind in KINDS for each in getattr(inventory, kind))


def _without(inventory: Inventory, bad: Any) -> Inventory:
    """Return ``inventory`` without an object, or with a policy that blocks its pods in the place of this one."""
    changed: dict[str, Any] = {}
    for kind in KINDS:
        kept = (each if each != bad else _blocked(each) for each in getattr(inventory, kind))
        changed[kind] = tuple(each for each in kept if each is not None)
    return replace(inventory, **changed)


def _blocked(bad: Any) -> Policy | None:
    """Return what stands for a bad object: a policy without a gateway for a policy, and nothing for all others."""
    return replace(bad, gateway="", destinations=(), excluded=()) if isinstance(bad, Policy) and bad.gateway else None


def _with(
    kept: Inventory, kind: str, objects: tuple[Any, ...], attempt: Attempt, found: list[tuple[Any, Problem]]
) -> Inventory:
    """Add ``objects`` to ``kept``, by halves: one bad object among a thousand costs some twenty plans."""
    if not objects:
        return kept
    more: dict[str, Any] = {kind: (*getattr(kept, kind), *objects)}
    together = replace(kept, **more)
    try:
        attempt(together)
    except Exception as error:
        if len(objects) > 1:
            middle = len(objects) // 2
            first = _with(kept, kind, objects[:middle], attempt, found)
            return _with(first, kind, objects[middle:], attempt, found)
        hint = "the other objects are in force; please report this with the object"
        message = f"cannot be planned: {type(error).__name__}: {error}"
        found.append((objects[0], Problem(objects[0].source or objects[0].name, "", message, hint)))
        return kept
    return together
