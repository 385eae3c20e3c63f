"""The other nodes, and the files that nodes give each other, as the agent sees them; see :mod:`.ports`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from ..manifest_sets.acceptance import Local
from ..manifest_sets.messages import Answer, Request
from ..manifest_sets.sets import ManifestSet
from ..manifests.model import Problem


class SetFiles(Protocol):
    """The manifests of this node as files, which are replaced together. Methods raise OSError."""

    async def read(self) -> Local:
        """Return the manifests of this node."""

    async def apply(self, manifests: ManifestSet) -> None:
        """Replace the manifests by a set, all or none."""

    async def adopt(self, manifests: ManifestSet) -> None:
        """Take a set for the one that was applied last: the directory has its files."""

    async def repair(self) -> str:
        """Finish what has failed half way. Return in words what was done; empty if there was nothing to do."""


class Channel(Protocol):
    """Authenticated connections with the agents of other nodes."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return why other nodes do not reach this one."""

    async def call(self, node: str, address: str, source: str, request: Request) -> Answer:
        """Return the answer of a node at ``address``. ``source``: this node's own address.

        Raises OSError, and ``Refused`` without an authentic answer.
        """

    async def serve(
        self, peers: Callable[[], Mapping[str, str]], handler: Callable[[str, Request], Awaitable[Answer]]
    ) -> None:
        """Answer requests until cancelled. ``peers``: names of the other nodes by address."""
