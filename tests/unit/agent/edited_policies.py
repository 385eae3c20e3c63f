"""The states of policies that are edited while an ADD is under way, and whether the agent knows one of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from gateway_agent.manifests.model import Inventory

State = dict[str, tuple[str, ...]]
"""Destinations by the name of a policy."""


class EditedPolicies:
    """What a directory or a cluster had, state by state."""

    def __init__(self) -> None:
        self.states: list[State] = [{}]

    def edit(self, name: str, destinations: tuple[str, ...]) -> None:
        """Note that a policy was written, or deleted if it leads nowhere."""
        state = {other: value for other, value in self.states[-1].items() if other != name}
        self.states.append(state | ({name: destinations} if destinations else {}))

    def newest(self) -> int:
        """Return the number of the newest state."""
        return len(self.states) - 1

    def known_since(self, since: int, inventory: Inventory | None) -> bool:
        """Return True if each policy is known as it was at the state ``since``, or later."""
        assert inventory is not None
        known = {policy.name: policy.destinations for policy in inventory.policies}
        names = set(itertools.chain.from_iterable(self.states))
        return all(
            known.get(name, ()) in [state.get(name, ()) for state in self.states[since:]] for name in names
        )


def nodes() -> Iterator[dict[str, Any]]:
    """Yield the objects of two egress nodes and a worker."""
    for number, name in enumerate(("g1", "g2", "w1"), 7):
        metadata = {"name": name, "labels": {"role": "egress"} if name != "w1" else {}}
        addresses = [{"type": "InternalIP", "address": f"172.16.0.{number}"}]
        yield {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": {"addresses": addresses}}
