"""Exchange requests and answers with the agents of other nodes by authenticated connections."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ...manifest_sets.messages import Answer, Request
from ...manifest_sets.session import Refused
from ..set_ports import Channel
from ..state import NodeState

Handler = Callable[[str, Any], Awaitable[Answer]]
"""Returns the answer to a request; the arguments are the name of the requesting node and the request."""


@dataclass(frozen=True)
class CallLimits:
    """The limits of a request to all nodes."""

    at_once: int
    """Nodes that are asked at the same time."""
    each_s: float
    """Seconds for one node."""
    all_s: float
    """Seconds for all."""


class Peers:
    """One node's connections with the others. All methods belong to the agent's event loop."""

    def __init__(self, node: str, state: NodeState, channel: Channel) -> None:
        self.node = node
        self._state = state
        self._channel = channel
        self._handlers: dict[type[Request], Handler] = {}

    def addresses(self) -> dict[str, str]:
        """Return the addresses of the other nodes by name; none if this node is not in the inventory."""
        plan = self._state.plan
        if plan is None or plan.me is None:
            return {}
        mine = ":" in plan.me.address
        others = (node for node in plan.nodes if node.name != plan.node)
        return {node.name: node.address for node in others if (":" in node.address) == mine}

    def handle(self, kind: type[Request], handler: Handler) -> None:
        """Answer requests of a kind by ``handler`` from this call on."""
        self._handlers[kind] = handler

    async def serve(self) -> None:
        """Answer other nodes until cancelled."""
        await self._channel.serve(
            lambda: {address: name for name, address in self.addresses().items()}, self.answer
        )

    async def answer(self, peer: str, request: Request) -> Answer:
        """Return the answer to a request of another node. Raises :class:`Refused` for a kind that nothing handles."""
        handler = self._handlers.get(type(request))
        if handler is None:
            raise Refused(f"this node answers no {type(request).__name__}")
        return await handler(peer, request)

    async def call(self, node: str, request: Request) -> Answer:
        """Return the answer of another node. Raises OSError and :class:`Refused`."""
        plan = self._state.plan
        address = self.addresses().get(node)
        if address is None or plan is None or plan.me is None:
            raise Refused("the inventory has no address of it, or none of this node")
        return await self._channel.call(node, address, plan.me.address, request)

    async def call_all(self, request: Request, patience: CallLimits) -> dict[str, Answer | str]:
        """Return, by name, the answer of each other node, or a text why there is none."""
        places = asyncio.Semaphore(patience.at_once)

        async def ask(node: str) -> Answer | str:
            async with places:
                try:
                    async with asyncio.timeout(patience.each_s):
                        return await self.call(node, request)
                except (OSError, Refused) as error:
                    return _reason(error)

        plan = self._state.plan
        names = [node.name for node in plan.nodes if node.name != plan.node] if plan else []
        tasks = {name: asyncio.create_task(ask(name)) for name in names}
        try:
            if tasks:
                await asyncio.wait(tasks.values(), timeout=patience.all_s)
            return {name: task.result() if task.done() else _LATE for name, task in tasks.items()}
        finally:
            for task in tasks.values():
                task.cancel()


_LATE = "it did not answer in time"


def _reason(error: OSError | Refused) -> str:
    if isinstance(error, TimeoutError):
        return _LATE
    # asyncio writes its own text in place of the kernel's.
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else str(error)
