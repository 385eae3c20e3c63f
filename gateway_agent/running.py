"""Run the agent and its companions until a signal, or until a part fails."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

from .adapters.service_manager import READY, STOPPING, notify, reloading

logger = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Runnable(Protocol):
    """The agent, as its process runs it: see :class:`gateway_agent.agent.service.Agent`."""

    @property
    def node(self) -> str:
        """Return the name of the node."""

    def watch(self) -> None:
        """Start to follow events of the kernel."""

    def tasks(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return the tasks that run as long as the agent does."""

    async def stop(self) -> None:
        """Hand every lease over."""


class Server(Protocol):
    """The server of ``agent.sock``."""

    path: Path

    async def start(self) -> None:
        """Listen. Raises OSError."""

    async def stop(self) -> None:
        """Stop listening."""


class Service:
    """One run of the agent with ``others``, which run as long as it does."""

    def __init__(
        self,
        agent: Runnable,
        server: Server,
        others: Sequence[Coroutine[Any, Any, None]],
        leave: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        """``leave`` is called after every lease has been handed over."""
        self._agent, self._server, self._others, self._leave = agent, server, others, leave
        self._received: list[signal.Signals] = []
        self._signalled = asyncio.Event()

    async def until_signal(self, can_restart: Callable[[], bool]) -> bool:
        """Run until a signal. Return True after SIGHUP, and False after another signal.

        SIGHUP is ignored unless ``can_restart``. Raises the exception of a part that failed.
        """
        self._handle_signals(can_restart)
        self._agent.watch()
        parts = (*self._agent.tasks(), *self._others)
        tasks: list[asyncio.Task[object]] = [asyncio.create_task(part) for part in parts]
        waiting: asyncio.Task[object] = asyncio.create_task(self._signalled.wait())
        await self._server.start()
        logger.info("node %s: serving on %s", self._agent.node, self._server.path)
        notify(READY)
        # A part that ends by itself has failed: the service ends with it, and the service manager starts the service
        # again.
        await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        restart = await self._end()
        for task in (waiting, *tasks):
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        return restart

    def _handle_signals(self, can_restart: Callable[[], bool]) -> None:
        def receive(number: signal.Signals) -> None:
            if number == signal.SIGHUP and not can_restart():
                return
            self._received.append(number)
            self._signalled.set()

        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, receive, number)

    async def _end(self) -> bool:
        """Report the end to the service manager, and hand over unless it is a restart. Return True if it is one."""
        restart = self._received[:1] == [signal.SIGHUP]
        if restart:
            reloading()
        else:
            notify(STOPPING)
        if self._received and not restart:
            logger.info("stopping: handing over")
            await self._agent.stop()
            await self._leave()
        await self._server.stop()
        return restart
