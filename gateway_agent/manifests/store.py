"""Where the objects come from: a directory of files or a Kubernetes cluster. What both are for the agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from .model import Inventory


class NotKnown(Exception):
    """The store cannot say yet what a pod is; it can in a moment."""


class Store(Protocol):
    def inventories(self) -> AsyncIterator[Inventory]:
        """The inventory as soon as there is one, then again after each change that alters it. Ends with its task."""

    async def for_pod(self, namespace: str, name: str, uid: str) -> Inventory | None:
        """The inventory for a pod that starts now, with all that stood in the store before this call.

        None where the last one is it. ``uid``: empty where nobody has told it. Raises :class:`NotKnown` and OSError.
        """
