"""Share the unchanged parts of the previous inventory with a new one. Pure."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from .model import Inventory

PARTS = tuple(each.name for each in fields(Inventory))


def sharing(inventory: Inventory, before: Inventory) -> Inventory:
    """Return an equal inventory whose parts are the objects of ``before`` where they are equal.

    Results for a part can then be cached: see :mod:`gateway_agent.policy.kept_results`.
    """
    same: dict[str, Any] = {
        name: value for name in PARTS if getattr(inventory, name) == (value := getattr(before, name))
    }
    return replace(inventory, **same)
