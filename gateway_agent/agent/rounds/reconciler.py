"""Run rounds: each reconciles the node with the newest objects, by a list of named steps.

A round begins after each request, and every few seconds without one. A round may be done twice, and after a failure of
any step the next round repairs. A request that comes while a round works leads to another round.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cni.kernel.errors import KernelError
from cni.plan import Plan, PodIdentity

from ...manifests.model import Inventory
from ..pods.pod_policies import same_for
from ..state import NodeState

log = logging.getLogger(__name__)
RETRY_S = 1.0
"""Seconds until a failed round is repeated."""
RESYNC_INTERVAL_S = 4.0
"""Seconds until a round without a request: some changes cause no event, such as those of the plugin alone, of
``src_valid_mark`` and of routes of other programs. Status is to name a fault of the path within 5 s."""


@dataclass
class Round:
    """The data of one round, which its steps pass on to later steps."""

    inventory: Inventory
    previous: Plan | None = None
    """The plan that was in force before this round."""
    plan: Plan | None = None
    interim: Plan | None = None
    """The plan with the policy sets that tags still need; None if the kernel was up to date."""


Step = tuple[str, Callable[[Round], Awaitable[None]]]
"""Name of a step, for messages, and its function."""


class Reconciler:
    """The rounds of one node, and the only writer of ``NodeState.followed`` and ``NodeState.trouble``.

    ``steps``: those of each round, in order. ``search``: finds the objects that made a step raise an exception other
    than KernelError and OSError. ``requested``: the event that requests a round. ``ended`` is called after each round.
    """

    def __init__(
        self,
        state: NodeState,
        steps: Sequence[Step],
        search: Callable[[Inventory], Awaitable[None]],
        requested: asyncio.Event,
        ended: Callable[[], None],
    ) -> None:
        self._state = state
        self._steps = tuple(steps)
        self._search = search
        self._notify = ended
        self._requested = requested
        self._rounds = asyncio.Condition()
        self._begun = self._ended = 0
        self._following: Inventory | None = None
        """The objects of the round in progress, or of the last one if it failed."""

    def request(self) -> None:
        """Request a round."""
        self._requested.set()

    async def next_round(self) -> None:
        """Request a round, and wait for the end of a round that began after this call."""
        async with self._rounds:
            wanted = self._begun + 1
            self.request()
            await self._rounds.wait_for(lambda: self._ended >= wanted)

    def outdated_for(self, pod: PodIdentity) -> bool:
        """Return True if the kernel may be behind the newest known objects for this pod.

        The objects of a round in progress count, and those of the last completed round: the plan may be of either.
        """
        newest, followed = self._state.inventory, self._state.followed
        if followed is None or newest is None:
            return True
        return not all(same_for(pod, each, newest) for each in (followed, self._following or followed))

    async def run(self) -> None:
        """Run round after round until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESYNC_INTERVAL_S):
                    await self._requested.wait()
            self._requested.clear()
            self._begun += 1
            await self._round()
            async with self._rounds:
                self._ended = self._begun
                self._rounds.notify_all()
            try:
                self._notify()
            except Exception as error:
                # A failed round may have left a state that cannot be sent; the next round follows soon.
                log.exception("the end of a round could not be reported")
                self._set_trouble(_message(error))

    async def _round(self) -> None:
        inventory = self._following = self._state.inventory
        try:
            if inventory is not None:
                await self._carry_out(inventory)
                self._state.followed = inventory
        except Exception as error:
            if not isinstance(error, (KernelError, OSError)):
                log.exception("a round failed")
                error = RuntimeError(_message(error))
            self._set_trouble(str(error))
            self._state.rounds_failed += 1
            asyncio.get_running_loop().call_later(RETRY_S, self.request)
        else:
            self._set_trouble("")
            self._state.applied_at = time.time()
            self._following = None

    async def _carry_out(self, inventory: Inventory) -> None:
        try:
            await self._do_steps(Round(inventory))
        except (KernelError, OSError):
            raise
        except Exception:
            # One object may be the cause.
            await self._search(inventory)
            await self._do_steps(Round(inventory))

    async def _do_steps(self, work: Round) -> None:
        for name, step in self._steps:
            try:
                await step(work)
            except (KernelError, OSError):
                raise
            except Exception:
                log.exception("a round cannot %s", name)
                raise

    def _set_trouble(self, trouble: str) -> None:
        if trouble and trouble != self._state.trouble:
            log.error("%s", trouble)
        self._state.trouble = trouble


def _message(error: Exception) -> str:
    return f"the agent failed: {type(error).__name__}: {error}"
