"""Ask all nodes of the group: how they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from ...manifest_sets.messages import Look, Report
from ...show import group
from ...show.snapshot import NodeSnapshot
from ...show.status import NotKnown
from ..inputs.peers import Patience, Peers
from ..state import NodeState

PATIENCE = Patience(at_once=100, each_s=4.0, all_s=8.0)
"""egressctl waits ten seconds."""
REPORT_AGE_S = 0.5
"""Seconds for which a report serves all nodes that ask: they cost this node one look, however many they are."""

LATEST_AGE_S = 3.0
"""Seconds between two requests to all nodes while a browser shows the page."""


class Group:
    """Asks the other nodes, and answers them. ``peers``: None if this node has no connections with them."""

    def __init__(
        self,
        state: NodeState,
        snapshot: Callable[[], NodeSnapshot | None],
        unready: Callable[[], str],
        peers: Peers | None,
    ) -> None:
        self._state = state
        self._snapshot = snapshot
        self._unready = unready
        self._peers = peers
        self._kept: tuple[float, Report] | None = None
        """The last report and when it was made."""
        self._latest: dict[str, Any] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = float("-inf")
        if peers:
            peers.handle(Look, self._answer)

    async def status(self, _: dict[str, Any]) -> dict[str, Any]:
        """Return how all nodes are. Raises :class:`NotKnown`."""
        plan = self._state.plan
        if plan is None:
            raise NotKnown("the agent has not read its store yet", "it is starting, or its log says why")
        answers = await self._peers.call_all(Look(), PATIENCE) if self._peers else {}
        addresses = {node.name: node.address for node in plan.nodes}
        found: dict[str, Report | str] = dict.fromkeys(
            addresses, "this node has no connections with other agents"
        )
        for name, answer in answers.items():
            other = "its answer is of another kind"
            found[name] = answer if isinstance(answer, Report | str) else other
        found[plan.node] = self._report()
        return group.answer(group.row(name, addresses.get(name, ""), each) for name, each in found.items())

    def latest(self) -> dict[str, Any] | None:
        """Return the last answers of all nodes; None if there are none yet. If they are old, ask again meanwhile.

        Called while a browser shows the page, and only then.
        """
        now = asyncio.get_running_loop().time()
        if (self._asking is None or self._asking.done()) and now - self._asked_at >= LATEST_AGE_S:
            self._asked_at = now
            self._asking = asyncio.create_task(self._refresh())
        return self._latest

    async def _refresh(self) -> None:
        with contextlib.suppress(NotKnown):
            self._latest = await self.status({})

    async def _answer(self, _: str, __: Look) -> Report:
        now = asyncio.get_running_loop().time()
        if self._kept is None or now - self._kept[0] > REPORT_AGE_S:
            self._kept = now, self._report()
        return self._kept[1]

    def _report(self) -> Report:
        return group.report(self._snapshot(), self._unready())
