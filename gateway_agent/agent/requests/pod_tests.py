"""Answer ``egressctl test``: send probes as pods of this node would, and report the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cni.kernel.errors import KernelError

from ...connection_log.sightings import Query
from ...manifests import prefixes
from ...policy.egress_node import pod_probes
from ...policy.egress_node.pod_probes import PodAnswer, PodProbe
from ...show import pod_tests
from ...show.snapshot import NodeSnapshot, master
from ...show.status import NotKnown
from ..ports import PodProber, Threads
from .whois import Ask

MAX_PORT = 0xFFFF
ASKING_S = 1.0
"""Seconds for the answer of a master: the test itself takes three of the ten seconds that egressctl waits."""


class PodTests:
    """The tests of this node, one at a time: the interfaces of the probes have fixed names."""

    def __init__(
        self,
        snapshot: Callable[[], NodeSnapshot | None],
        prober: PodProber,
        threads: Threads,
        ask: Ask | None = None,
    ) -> None:
        """``ask``: asks the master for the source with which a packet has left; None if this node cannot ask."""
        self._snapshot = snapshot
        self._prober = prober
        self._threads = threads
        self._ask = ask
        self._testing = asyncio.Lock()

    @property
    def busy(self) -> bool:
        """Return True while a test runs."""
        return self._testing.locked()

    async def test(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the results for the gateway named ``gateway`` (empty: all). ``to``, ``port``: the destination.

        Raises :class:`NotKnown` if there is no such gateway, or if the kernel takes no probe.
        """
        to, port = destination(question)
        async with self._testing:
            view = self._snapshot()
            if view is None:
                raise NotKnown("the agent has not read its store yet", "it is starting, or its log says why")
            chosen = pod_tests.chosen(view, str(question.get("gateway") or ""))
            probes = {each.id: pod_probes.probe(view.plan, each, to, port) for each in chosen}
            answers = await self._send([probe for probe in probes.values() if probe])
            known = await asyncio.gather(*(self._outside(view, *each) for each in answers.items()))
            answers = dict(zip(answers, known, strict=True))
            # The masters may have changed meanwhile: the probes went to the earlier ones.
            return pod_tests.answer(pod_tests.judged(view, probes, answers, to))

    async def _send(self, probes: list[PodProbe]) -> dict[PodProbe, PodAnswer]:
        if not probes:
            return {}
        try:
            return await self._threads.run(self._prober.send, probes)
        except (OSError, KernelError) as error:
            raise NotKnown(f"this node takes no probe: {error}", "egressctl doctor") from error

    async def _outside(self, view: NodeSnapshot, probe: PodProbe, found: PodAnswer) -> PodAnswer:
        """Return an answer, completed by the master's entry of the connection."""
        egress = view.egress(probe.egress_id)
        name = master(view, egress)[0] if egress else ""
        if self._ask is None or found.left_as is None or name in ("", view.plan.node):
            return found
        query = Query(found.left_as, True, (probe.destination, probe.port), "tcp")
        try:
            async with asyncio.timeout(ASKING_S):
                seen = await self._ask(name, query)
        except (OSError, TimeoutError):
            return found
        return replace(found, arrived_as=next((each.half.shown for each in seen), None))


def destination(question: dict[str, Any]) -> tuple[str, int]:
    """Return the address (empty: none given) and the port (0: none given). Raises :class:`NotKnown`."""
    to, port = str(question.get("to") or ""), str(question.get("port") or "0")
    hint = "as 203.0.113.10, 203.0.113.10:80 or [2001:db8::10]:80"
    try:
        address = prefixes.address(to) if to else ""
    except ValueError as error:
        raise NotKnown(str(error), hint) from error
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= MAX_PORT):
        raise NotKnown(f"{port!r} is not a TCP port", hint)
    return address, int(port)
