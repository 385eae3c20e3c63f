"""Give a new inventory the unchanged parts of the one before it. Pure."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from .model import Inventory

PARTS = tuple(each.name for each in fields(Inventory))


def sharing(inventory: Inventory, before: Inventory) -> Inventory:
    """Return an equal inventory, with each part that ``before`` has too being the same object.

    What was worked out of a part can then be kept: see :mod:`gateway_agent.policy.kept_results`.
    """
    same: dict[str, Any] = {
        name: value for name in PARTS if getattr(inventory, name) == (value := getattr(before, name))
    }
    return replace(inventory, **same)
