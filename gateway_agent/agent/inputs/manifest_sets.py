"""Exchange sets of manifests with other nodes: apply newer sets, send this node's set, push an operator's set."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Mapping

from ...manifest_sets import acceptance, messages, sets
from ...manifest_sets.acceptance import Decision, Local, Outcome
from ...manifest_sets.messages import Answer, Ask, Content, Fetch, Have, Offer, Result
from ...manifest_sets.session import Refused
from ...manifest_sets.sets import NONE, ManifestSet, Version
from ...manifests.model import Problem
from ..set_ports import SetFiles
from .peers import Peers

log = logging.getLogger(__name__)
POLL_INTERVAL_S = 5.0
"""Seconds between two requests for a newer set, each to one node."""
FIRST_POLL_INTERVAL_S = 0.5
"""The same interval until a node has answered: this node may have been away."""


class ManifestSets:
    """The sets of one node. Only one ``apply`` runs at a time; all methods belong to the agent's event loop."""

    def __init__(self, peers: Peers, files: SetFiles) -> None:
        self.node = peers.node
        self.peers = peers
        self._files = files
        self._changing = asyncio.Lock()
        self._version: Version = NONE
        self._targets: tuple[str, ...] = ()
        self._kept_out: tuple[ManifestSet, Decision] | None = None
        """The newest set that was not applied, with the reason."""
        self._waiting: list[str] = []
        """Nodes that are asked in this turn and were not asked yet."""
        self._trouble = ""
        self._looked = False
        for kind in (Ask, Fetch, Offer):
            peers.handle(kind, self.answer)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return problems: the newest set that this node does not apply, and files that cannot be written."""
        found = [Problem("manifests", "", self._trouble)] if self._trouble else []
        if self._kept_out:
            manifests, decision = self._kept_out
            hint = "it is tried again each few seconds"
            if decision.outcome is Outcome.EDITED:
                hint = f"egressctl push --force --to {self.node}, or put back the files of the last set"
            message = f"set {manifests.version.text} of node {manifests.author} is not applied here: {decision.detail}"
            found.append(Problem("manifests", "", message, hint))
        return tuple(found)

    async def follow(self) -> None:
        """Ask one node after another for a newer set, until cancelled."""
        interval = FIRST_POLL_INTERVAL_S
        while True:
            await asyncio.sleep(interval * random.uniform(0.8, 1.2))
            try:
                if done := await self._files.repair():
                    log.warning("%s", done)
                if not self._looked:
                    await self._read_local()
                if await self._poll():
                    interval = POLL_INTERVAL_S
                self._trouble = ""
            except OSError as error:
                self._say(str(error))

    async def answer(self, peer: str, request: Ask | Fetch | Offer) -> Answer:
        """Return the answer to another node."""
        if isinstance(request, Ask):
            if not self._looked:
                await self._read_local()
            return Have(*self._version, self._targets)
        if isinstance(request, Fetch):
            local = await self._read_local()
            return Content(sets.packed(local.last) if local.last else b"")
        try:
            manifests = sets.unpacked(request.manifests)
        except sets.Malformed as error:
            return Result(Outcome.FAILED, f"it is no set: {error}"[: messages.MAX_DETAIL_CHARS])
        decision = await self.take(manifests, peer, request.force)
        return Result(decision.outcome, decision.detail[: messages.MAX_DETAIL_CHARS])

    async def local(self) -> Local:
        """Return the manifests of this node. Raises OSError."""
        return await self._read_local()

    async def take(self, manifests: ManifestSet, peer: str, force: bool = False) -> Decision:
        """Apply a set if this node must have it. Return the decision."""
        async with self._changing:
            try:
                local = await self._read_local()
                decision = acceptance.decide(local, manifests, self.node, force)
                if decision.outcome is Outcome.APPLIED:
                    await self._files.apply(manifests)
                elif decision.outcome is Outcome.UNCHANGED and manifests.version > local.version:
                    await self._files.adopt(manifests)
            except OSError as error:
                decision = Decision(Outcome.FAILED, str(error))
            if decision.outcome in (Outcome.APPLIED, Outcome.UNCHANGED):
                self._version, self._targets = manifests.version, manifests.targets
                self._kept_out = None
            elif decision.outcome in (Outcome.EDITED, Outcome.FAILED):
                if self._kept_out != (manifests, decision):
                    message = "manifests: set %s of node %s is not applied: %s"
                    log.error(message, manifests.version.text, manifests.author, decision.detail)
                self._kept_out = manifests, decision
        if decision.outcome is Outcome.APPLIED:
            message = "manifests: set %s of node %s is applied, by node %s"
            log.info(message, manifests.version.text, manifests.author, peer)
        return decision

    async def take_newer(self, node: str) -> Version:
        """Apply the set of another node if it is newer than this node's. Return that node's version.

        Raises OSError and :class:`Refused`.
        """
        have = await self.peers.call(node, Ask())
        if not isinstance(have, Have):
            raise Refused("it answers another question")
        theirs = Version(have.number, have.digest)
        if theirs > self._version and (not have.targets or self.node in have.targets):
            await self._fetch(node, theirs)
        return theirs

    async def _fetch(self, node: str, version: Version) -> None:
        manifests = self._kept_out[0] if self._kept_out else None
        if manifests is None or manifests.version != version:
            content = await self.peers.call(node, Fetch())
            try:
                manifests = sets.unpacked(content.manifests) if isinstance(content, Content) else None
            except sets.Malformed as error:
                raise Refused(f"its set cannot be read: {error}") from error
        if manifests is not None:
            await self.take(manifests, node)

    async def _poll(self) -> bool:
        """Ask the next node. Return True if it has answered."""
        peers = self.peers.addresses()
        self._waiting = [name for name in self._waiting if name in peers] or _shuffled(peers)
        if not self._waiting:
            return False
        node = self._waiting.pop()
        try:
            await self.take_newer(node)
        except (OSError, Refused) as error:
            log.debug("manifests: node %s gives no answer: %s", node, error)
            return False
        return True

    async def _read_local(self) -> Local:
        local = await self._files.read()
        self._looked = True
        self._version, self._targets = local.version, local.last.targets if local.last else ()
        if self._kept_out and self._kept_out[0].version <= local.version:
            self._kept_out = None
        return local

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.error("manifests: %s", trouble)
        self._trouble = trouble


def _shuffled(names: Collection[str] | Mapping[str, str]) -> list[str]:
    return random.sample(sorted(names), len(names))
