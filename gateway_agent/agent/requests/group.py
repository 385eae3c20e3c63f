"""Collect the state of all nodes of the group."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from ...manifest_sets.messages import Look, Report
from ...show import group
from ...show.snapshot import NodeSnapshot
from ...show.status import NotKnown
from ..inputs.peers import CallLimits, Peers
from ..state import NodeState

CALL_LIMITS = CallLimits(at_once=100, each_s=4.0, all_s=8.0)
"""Limits below the ten seconds that egressctl waits."""
REPORT_AGE_S = 0.5
"""Seconds for which one report answers all nodes that ask: however many ask, this node makes one report."""

LATEST_AGE_S = 3.0
"""Seconds between two requests to all nodes while a browser shows the page."""


class Group:
    """Requests to the other nodes, and answers to theirs. ``peers``: None if there are no connections with them."""

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
        """The last report, and the moment at which it was made."""
        self._latest: dict[str, Any] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = float("-inf")
        if peers:
            peers.handle(Look, self._answer)

    async def status(self, _: dict[str, Any]) -> dict[str, Any]:
        """Return the state of all nodes. Raises :class:`NotKnown`."""
        plan = self._state.plan
        if plan is None:
            raise NotKnown("the agent has not read its store yet", "it is starting, or its log says why")
        answers = await self._peers.call_all(Look(), CALL_LIMITS) if self._peers else {}
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
        """Return the last answers of all nodes; None if there are none yet. Old answers are renewed in the background.

        Only called while a browser shows the page.
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
