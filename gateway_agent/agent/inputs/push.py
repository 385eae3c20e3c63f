"""Push a set of manifests to nodes, and report the result of each node meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from ...manifest_sets import acceptance, messages, sets
from ...manifest_sets.acceptance import Decision, Outcome
from ...manifest_sets.messages import Offer, Result
from ...manifest_sets.session import Refused
from ...manifest_sets.sets import NONE, ManifestSet, Version
from .manifest_sets import ManifestSets

log = logging.getLogger(__name__)
MAX_AT_ONCE = 32
"""Largest number of nodes that are called at the same time."""
DONE = (Outcome.APPLIED, Outcome.UNCHANGED)


class NotPushed(Exception):
    """A push cannot start. ``hint`` names the remedy."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Pushes:
    """The last push from this node; only one runs at a time. ``manifests``: None if the node accepts no sets."""

    def __init__(self, manifests: ManifestSets | None) -> None:
        self._manifests = manifests
        self._number = 0
        self._push: _Push | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Start a push. ``question``: ``files`` (texts by name), ``to`` (names of nodes; empty: all), ``force``.

        Raises :class:`NotPushed`.
        """
        if self._manifests is None:
            hint = "with the Kubernetes store, change the objects in the cluster; store.push: Off turns pushes off"
            raise NotPushed("this node takes and gives no sets of manifests", hint)
        if self._task and not self._task.done():
            raise NotPushed("another push runs on this node", "wait until it ends")
        files, to = _files(question.get("files")), _names(question.get("to") or [])
        self._number += 1
        self._push = _Push(self._manifests, self._number, files, to, question.get("force") is True)
        self._task = asyncio.create_task(self._push.run())
        return self._push.shown()

    def state(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the progress of the push with the number ``push``. Raises :class:`NotPushed` if there is none."""
        if self._push is None or question.get("push") != self._push.number:
            raise NotPushed(
                "the agent knows nothing of this push", "it was started again, or has made another push"
            )
        return self._push.shown()


class _Push:
    def __init__(
        self, manifests: ManifestSets, number: int, files: dict[str, str], to: tuple[str, ...], force: bool
    ) -> None:
        self.number = number
        self._manifests = manifests
        self._files = files
        self._to = to
        self._force = force
        everybody = (manifests.node, *sorted(manifests.peers.addresses()))
        if unknown := [name for name in to if name not in everybody]:
            raise NotPushed(f"no node {', '.join(unknown)}", f"one of {', '.join(everybody)}")
        self._targets = to or everybody
        self._results: dict[str, Decision] = {}
        self._failure = ("", "")
        self._set = ""
        self._ended = False
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    def shown(self) -> dict[str, Any]:
        """Return the state of the push as JSON."""
        return {
            "push": self.number,
            "done": self._ended,
            "set": self._set,
            "total": len(self._targets),
            "failure": self._failure[0],
            "hint": self._failure[1],
            "nodes": [
                {
                    "node": name,
                    "outcome": str(self._results[name].outcome),
                    "detail": self._results[name].detail,
                }
                for name in self._targets
                if name in self._results
            ],
        }

    async def run(self) -> None:
        """Do the push. :meth:`shown` reports each failure."""
        try:
            await self._run()
        except (OSError, sets.Malformed) as error:
            self._failure = str(error), ""
        except Exception as error:
            log.exception("a push failed")
            self._failure = f"the agent failed: {error!r}", "see its log"
        finally:
            self._ended = True

    async def _run(self) -> None:
        before = (await self._manifests.local()).version
        newest = await self._newest()
        local = await self._manifests.local()
        if local.version > before and not self._force:
            message = f"another node had a newer set, {local.version.text}, which is here only since now"
            self._failure = message, "compare by egressctl diff, and push again"
            return
        manifests = acceptance.next_set(local, self._files, self._manifests.node, newest.number, self._to)
        self._set = manifests.version.text
        if manifests.is_for(self._manifests.node):
            own = await self._manifests.take(manifests, self._manifests.node, self._force)
            self._results[self._manifests.node] = own
            if own.outcome not in DONE:
                self._failure = (
                    f"nothing was sent: here the set is not applied, {own.detail}",
                    "--force applies it",
                )
                return
        await self._run_all(
            self._offer(name, manifests)
            for name in self._targets
            if name not in self._results and name != self._manifests.node
        )

    async def _newest(self) -> Version:
        """Return the newest version of all nodes that answer. Record the failure of targets that do not answer."""
        found = [NONE]

        async def ask(name: str) -> None:
            try:
                found.append(await self._manifests.take_newer(name))
            except (OSError, Refused) as error:
                if name in self._targets:
                    self._results[name] = Decision(Outcome.UNREACHABLE, _reason(error))

        await self._run_all(ask(name) for name in self._manifests.peers.addresses())
        return max(found)

    async def _offer(self, name: str, manifests: ManifestSet) -> None:
        try:
            answer = await self._manifests.peers.call(name, Offer(sets.packed(manifests), self._force))
            if not isinstance(answer, Result):
                raise Refused("it answers another question")
            self._results[name] = Decision(
                Outcome(answer.outcome), answer.detail[: messages.MAX_DETAIL_CHARS]
            )
        except (OSError, Refused, ValueError) as error:
            self._results[name] = Decision(Outcome.UNREACHABLE, _reason(error))

    async def _run_all(self, calls: Iterable[Coroutine[Any, Any, None]]) -> None:
        async def limited(call: Coroutine[Any, Any, None]) -> None:
            async with self._slots:
                await call

        await asyncio.gather(*map(limited, calls))


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "it refuses connections: no agent runs, or one that takes no sets"
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _files(value: Any) -> dict[str, str]:
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return value
    raise NotPushed("files: no mapping of names to texts")


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise NotPushed("to: no list of names")
