"""Nodes that are silent because they listen at another port or over another family: found by what they send.

A node with another ``cluster.port`` and the others receive nothing of each other: what they send arrives at a port at
which no program listens. While a node is silent, this one sends it a datagram now and then, and looks at ICMP errors
and at what comes to other ports. A port or an address is named only if a message is authentic; an ICMP error is not,
and gives one text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..ipc import KeeperConfig
from ..voting.protocol import SECOND
from ..voting.quorum_view import QuorumView
from .bodies import Hello, encode
from .outbox import Send
from .wire import Endpoint

CHECK_INTERVAL_NS = SECOND
"""Interval at which silent nodes are looked for."""
GAP_NS, PATIENT_NS = 5 * SECOND, 60 * SECOND
"""Time from one search to the next; the longer one after :data:`EAGER_NS` without another silent node."""
EAGER_NS = 60 * SECOND
MAX_ASKED = 8
"""Largest number of nodes in one search: the others follow in the next ones."""
CURRENT_NS = 150 * SECOND
"""Time for which the result of a search counts."""


@dataclass(frozen=True)
class Stray:
    """The address and port that a silent node sends from."""

    address: str
    port: int
    at: int


class Strays:
    """One node's. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, contact: QuorumView, endpoint: Endpoint) -> None:
        self.revision = 0
        """Grows when something else is to be shown."""
        self._contact = contact
        self._endpoint = endpoint
        self._silent: tuple[str, ...] = ()
        self._silent_since = self._next_check = self._next_search = 0
        self._next_asked = 0
        self._refused: dict[str, int] = {}
        self._found: dict[str, Stray] = {}

    def questions(self, now: int) -> tuple[Send, ...]:
        """Return what to send to nodes that are silent: their kernels say if a program listens there.

        A search of :data:`GAP_NS` begins with it; none begins if this is empty.
        """
        if now < self._next_check:
            return ()
        self._next_check = now + CHECK_INTERVAL_NS
        self._keep(self._contact.silent(now), now)
        if not self._silent or now < self._next_search:
            return ()
        self._next_search = now + (GAP_NS if now < self._silent_since + EAGER_NS else PATIENT_NS)
        first = self._next_asked % len(self._silent)
        self._next_asked += MAX_ASKED
        chosen = (*self._silent[first:], *self._silent[:first])[:MAX_ASKED]
        hello, peers = encode(Hello()), self._endpoint.peers
        return tuple(Send(peers[name], self._endpoint.seal(name, hello)) for name in chosen if name in peers)

    def _keep(self, silent: tuple[str, ...], now: int) -> None:
        """Forget the nodes that are live again; a node that has just become silent is looked for soon."""
        if set(silent) - set(self._silent):
            self._silent_since, self._next_search = now, min(self._next_search, now)
        self._silent = silent
        refused = {
            name: at for name, at in self._refused.items() if name in silent and now <= at + CURRENT_NS
        }
        found = {
            name: stray
            for name, stray in self._found.items()
            if name in silent and now <= stray.at + CURRENT_NS
        }
        self.revision += refused.keys() != self._refused.keys() or found.keys() != self._found.keys()
        self._refused, self._found = refused, found

    def refused(self, address: str, now: int) -> None:
        """Take note of what an ICMP error says: no program listens at this node's port of that address."""
        for node in self._silent:
            if self._endpoint.peers.get(node) == address:
                self.revision += node not in self._refused
                self._refused[node] = now

    def arrived(self, datagram: bytes, source: str, port: int, now: int) -> None:
        """Judge a datagram that came to another ``port`` or over another family than this node's."""
        node = self._endpoint.authentic_sender(datagram)
        if node not in self._silent:
            return
        before = self._found.get(node)
        self._found[node] = Stray(source, port, now)
        self.revision += before is None or (before.address, before.port) != (source, port)

    def unanswered(self, node: str, port: int) -> str:
        """Return in words that no program listens on a node; empty if one may."""
        if node not in self._refused:
            return ""
        return f"no program listens at UDP port {port} of {self._endpoint.peers.get(node, 'its address')}"

    def problems(self, config: KeeperConfig) -> Iterator[str]:
        """Yield one text for each node that was found. ``config``: of this node."""
        me = config.node
        mine = next((peer.address for peer in config.peers if peer.name == me), "")
        for name, stray in sorted(self._found.items()):
            if stray.port != config.port:
                yield (
                    f"cluster.port is {config.port} on this node ({me}) and {stray.port} on {name}: "
                    "it must be the same on all nodes"
                )
            elif (":" in stray.address) != (":" in mine):
                yield (
                    f"the underlay is {_family(mine)} on this node ({me}) and {_family(stray.address)} on {name}, "
                    f"which sends from {stray.address}: the addresses of nodes in their stores differ"
                )


def _family(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"
