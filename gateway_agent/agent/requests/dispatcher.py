"""Dispatch requests on the agent's socket: CNI calls, and calls of ``egressctl``."""

from __future__ import annotations

from cni import contract

from .cni_calls import CniCalls
from .control import Control


class Requests:
    """The dispatcher of requests to the part that answers them."""

    def __init__(self, calls: CniCalls, control: Control) -> None:
        self._calls = calls
        self._control = control

    async def handle(self, request: bytes) -> bytes:
        """Return the answer to a request of either kind (``cni/contract.py``). Never raises."""
        kind, _, text = request.partition(b"\0")
        if kind == contract.CONTROL:
            return await self._control.answer(text)
        return await self._calls.answer(request)
