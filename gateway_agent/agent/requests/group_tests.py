"""Answer ``egressctl test --all``, with the test results of all nodes."""

from __future__ import annotations

import asyncio
from typing import Any

from ...manifest_sets.messages import MAX_DETAIL_CHARS, Tried, Try
from ...manifest_sets.session import Refused
from ...show import pod_tests
from ...show.pod_tests import Row
from ...show.status import NotKnown
from ..inputs.peers import CallLimits, Peers
from .pod_tests import PodTests, destination

CALL_LIMITS = CallLimits(at_once=16, each_s=8.0, all_s=100.0)
"""Limits below the two minutes that egressctl waits. A test takes four seconds if no machine answers."""


class GroupTests:
    """Tests by this node and the others. ``peers``: None if this node has no connections with them."""

    def __init__(self, tests: PodTests, peers: Peers | None) -> None:
        self._tests = tests
        self._peers = peers
        if peers:
            peers.handle(Try, self._answer)

    async def test(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the lines of this node; with ``all`` those of all nodes. Raises :class:`NotKnown`."""
        if not question.get("all"):
            return await self._tests.test(question)
        if self._peers is None:
            raise NotKnown(
                "this node has no connections with other agents", "run egressctl test on each node"
            )
        destination(question)
        asked = Try(*(str(question.get(name) or "")[:MAX_DETAIL_CHARS] for name in ("gateway", "to", "port")))
        own, others = await asyncio.gather(
            self._tests.test(question), self._peers.call_all(asked, CALL_LIMITS)
        )
        rows: list[Row] = own["tests"]
        for node, answer in sorted(others.items()):
            rows += _rows(node, answer)
        return pod_tests.answer(rows)

    async def _answer(self, _: str, asked: Try) -> Tried:
        if self._tests.busy:
            return Tried(b"", "another test runs")
        try:
            found = await self._tests.test({"gateway": asked.gateway, "to": asked.to, "port": asked.port})
        except NotKnown as error:
            return Tried(b"", str(error)[:MAX_DETAIL_CHARS])
        return Tried(pod_tests.packed(found["tests"]))


def _rows(node: str, answer: object) -> list[Row]:
    if isinstance(answer, str):
        return [pod_tests.silent(node, answer)]
    try:
        if not isinstance(answer, Tried) or answer.trouble:
            raise Refused(answer.trouble if isinstance(answer, Tried) else "its answer is of another kind")
        return pod_tests.unpacked(node, answer.tests)
    except (Refused, ValueError) as error:
        return [pod_tests.silent(node, str(error))]
