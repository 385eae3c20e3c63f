"""Protocols of the connections with other nodes, and of manifest files; see :mod:`.ports`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from ..manifest_sets.acceptance import Local
from ..manifest_sets.messages import Answer, Request
from ..manifest_sets.sets import ManifestSet
from ..manifests.model import Problem


class SetFiles(Protocol):
    """The manifest files of this node, which are replaced together. Methods raise OSError."""

    async def read(self) -> Local:
        """Return the manifests of this node."""

    async def apply(self, manifests: ManifestSet) -> None:
        """Replace the manifests by a set, all or none."""

    async def adopt(self, manifests: ManifestSet) -> None:
        """Record a set as the last applied one: the directory already has its files."""

    async def repair(self) -> str:
        """Finish an interrupted replacement. Return a text about it; empty if there was none."""


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
