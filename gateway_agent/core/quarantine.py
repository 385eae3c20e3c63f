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


def build(inventory: Inventory, attempt: Attempt) -> Planned:
    """Return the plan that ``attempt`` makes of ``inventory``, less the objects on which ``attempt`` fails.

    The pods of a policy that is left out are cut off, as those of a policy whose gateway does not exist: they are not
    let out by another address. Raises what ``attempt`` does if none of the objects is the cause.
    """
    try:
        return attempt(inventory)
    except Exception:
        kept = replace(inventory, nodes=(), gateways=(), policies=())
    problems: list[Problem] = []
    for kind in KINDS:
        kept = _with(kept, kind, getattr(inventory, kind), attempt, problems)
    planned = attempt(kept)
    return replace(planned, problems=(*planned.problems, *problems))


def _with(
    kept: Inventory, kind: str, objects: tuple[Any, ...], attempt: Attempt, problems: list[Problem]
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
            first = _with(kept, kind, objects[:middle], attempt, problems)
            return _with(first, kind, objects[middle:], attempt, problems)
        hint = "the other objects are in force; please report this with the object"
        message = f"cannot be planned: {type(error).__name__}: {error}"
        problems.append(Problem(objects[0].source or objects[0].name, "", message, hint))
        blocked = [replace(policy, gateway="", destinations=(), excluded=()) for policy in objects
                   if isinstance(policy, Policy) and policy.gateway]
        return _with(kept, kind, tuple(blocked), attempt, [])
    return together
