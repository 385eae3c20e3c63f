"""Answer ``egressctl whois``: find the pod that has, or had, an address and port outside."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from cni.kernel.errors import KernelError

from ...config import ConnectionLogConfig
from ...connection_log import sightings
from ...connection_log.sightings import Connection, Query, Sighting
from ...manifest_sets.messages import MAX_DETAIL_CHARS, Find, Found
from ...manifest_sets.session import Refused
from ...manifests import prefixes
from ...show import connections
from ...show.status import NotKnown
from ..inputs.peers import Peers
from ..pods.records import Pods
from ..ports import ConnectionSearch, Threads
from ..state import NodeState

Ask = Callable[[str, Query], Awaitable[list[Sighting]]]
"""Asks another node. Raises OSError if the node gives no answer."""
MAX_PORT = 0xFFFF
MAX_CONNECTIONS = 20
"""Largest number of connections in an answer."""
TIMEOUT_S = 4.0
"""Seconds for the answers of other nodes. One call of egressctl needs two rounds of answers."""
HINT = "as 172.16.0.50:40000 or [2001:db8::50]:40000"


class PeerSearch:
    """Queries about connections to other nodes, and answers to theirs, by the channel of the agents."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Locks: one query to a node at a time, because a node accepts few connections of another one."""

    async def ask(self, node: str, query: Query) -> list[Sighting]:
        """Return the sightings of another node. Raises OSError if the node gives no answer."""
        try:
            async with self._turns[node]:
                found = await self._peers.call(node, Find(msgspec.msgpack.encode(query)))
            if not isinstance(found, Found) or found.trouble:
                raise Refused(found.trouble if isinstance(found, Found) else "its answer is of another kind")
            return msgspec.msgpack.decode(found.sightings, type=list[Sighting])
        except (Refused, msgspec.MsgspecError) as error:
            raise OSError(0, str(error)) from error

    def serve(self, here: Callable[[Query], Awaitable[list[Sighting]]]) -> None:
        """Answer other nodes from now on. ``here``: returns this node's sightings."""

        async def answer(_: str, request: Find) -> Found:
            try:
                query = msgspec.msgpack.decode(request.query, type=Query)
                if not 0 <= query.end[1] <= MAX_PORT:
                    raise ValueError(f"{query.end[1]} is no port")
                found = await here(query)
            except (msgspec.MsgspecError, OSError, KernelError, ValueError) as error:
                return Found(b"", str(error)[:MAX_DETAIL_CHARS])
            return Found(msgspec.msgpack.encode(found))

        self._peers.handle(Find, answer)


class Whois:
    """The search on this node and others. ``peers``: None if this node cannot ask others."""

    def __init__(
        self,
        state: NodeState,
        pods: Pods,
        search: ConnectionSearch,
        threads: Threads,
        log: ConnectionLogConfig | None,
        peers: PeerSearch | None = None,
    ) -> None:
        self._state = state
        self._pods = pods
        self._search = search
        self._threads = threads
        self._log = log
        self._ask: Ask | None = peers.ask if peers else None
        if peers:
            peers.serve(self.here)

    async def here(self, query: Query) -> list[Sighting]:
        """Return this node's sightings, present ones and logged ones. Raises KernelError and OSError."""
        plan = self._state.applied or self._state.plan
        if plan is None:
            return []
        records = tuple(self._pods.records.values())
        found = await self._threads.run(self._search.open, plan, records, query)
        if self._log is not None and self._log.journal:
            found = [*found, *await self._threads.run(self._search.in_journal, query)]
        elif self._log is not None:
            logged = await self._threads.run(self._search.logged, self._log.file, self._log.keep, query)
            found = [*found, *logged]
        return sightings.nearest(query, found)

    async def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the connections of ``ip`` and ``port``, limited to ``to``, ``toPort`` and Unix time ``at`` if given.

        Raises :class:`NotKnown`.
        """
        query = _query(question)
        silent: dict[str, str] = {}
        others = self._others()
        answers = await asyncio.gather(self._own(query), *(self._of(name, query, silent) for name in others))
        found = sightings.connections(each for answer in answers for each in answer)
        chosen = _chosen(found, query)[:MAX_CONNECTIONS]
        whole = await asyncio.gather(*(self._joined(one, silent) for one in chosen))
        return connections.answer(query, whole, silent, self._log is not None)

    def _others(self) -> tuple[str, ...]:
        """Return the nodes that may have been master of an egress IP."""
        plan = self._state.plan
        if plan is None:
            return ()
        names = {name for egress in plan.egress_ips for name in (*egress.eligible, egress.master)}
        return tuple(sorted(names - {plan.node, ""}))

    async def _own(self, query: Query) -> list[Sighting]:
        try:
            return await self.here(query)
        except (OSError, KernelError) as error:
            raise NotKnown(f"this node cannot search: {error}") from error

    async def _of(self, name: str, query: Query, silent: dict[str, str]) -> list[Sighting]:
        """Return the sightings of another node; if there is no answer, add the reason to ``silent``."""
        if self._ask is None:
            silent[name] = "this node cannot ask other nodes"
            return []
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._ask(name, query)
        except (OSError, TimeoutError) as error:
            silent[name] = str(error) or "no answer in time"
            return []

    async def _joined(self, found: Connection, silent: dict[str, str]) -> Connection:
        """Return a connection, joined with the worker's half of it."""
        query = sightings.worker_query(found)
        if query is None or not found.half.node:
            return found
        plan = self._state.plan
        own = plan is not None and found.half.node == plan.node
        seen = await (self._own(query) if own else self._of(found.half.node, query, silent))
        return sightings.joined(found, sightings.connections(seen))


def _chosen(found: list[Connection], query: Query) -> list[Connection]:
    """Return the connections at the requested time; without one, the open connections, else the last ones.

    An open connection has a line in the log, too: that of its start.
    """
    if query.at is not None:
        return [one for one in found if one.was_open_at(query.at)]
    return [one for one in found if one.is_open] or found


def _query(question: dict[str, Any]) -> Query:
    """Parse a question. Raises :class:`NotKnown` if it is not valid."""
    ip, to = (_address(str(question.get(name) or "")) for name in ("ip", "to"))
    port, to_port = (_port(str(question.get(name) or "0")) for name in ("port", "toPort"))
    if not ip or not port:
        raise NotKnown("an address and a port are needed", HINT)
    at = str(question.get("at") or "")
    try:
        seconds = float(at) if at else None
    except ValueError as error:
        raise NotKnown(f"{at!r} is no time") from error
    if seconds is not None and not 0 <= seconds <= time.time() + sightings.SLACK_S:
        raise NotKnown("the time is not in the past")
    return Query((ip, port), to=(to, to_port) if to else None, at=seconds)


def _address(text: str) -> str:
    try:
        return prefixes.address(text) if text else ""
    except ValueError as error:
        raise NotKnown(str(error), HINT) from error


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MAX_PORT):
        raise NotKnown(f"{text!r} is no port", HINT)
    return int(text)
