"""Interface of the two stores of objects: a directory of files, and the Kubernetes API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from .model import Inventory


class NotKnown(Exception):
    """The store does not have a pod yet, and expects it shortly."""


class Store(Protocol):
    """A source of inventories."""

    def inventories(self) -> AsyncIterator[Inventory]:
        """Yield the first complete inventory, then each changed one. Ends with the task that iterates."""

    async def for_pod(self, namespace: str, name: str, uid: str) -> Inventory | None:
        """Return an inventory for a pod that starts now, with everything that was in the store before this call.

        Return None if the last yielded inventory is still current. ``uid``: empty if the runtime did not pass it.
        Raises :class:`NotKnown` and OSError.
        """

    def errors(self) -> Mapping[str, int]:
        """Return the failed requests to the store since the start, by kind; empty for a store without requests."""


class Reporter(Protocol):
    """The reporter of this node's state to the store."""

    async def run(self) -> None:
        """Report until cancelled."""

    async def leave(self) -> None:
        """Report that the agent of this node stops."""
