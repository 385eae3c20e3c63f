"""Find connections through egress IPs: in the kernel's table, and in the log."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from cni.calls.attachments import Attachment
from cni.kernel.netlink.conntrack import ct_flows
from cni.kernel.netlink.conntrack.connections import with_mark
from cni.kernel.netlink.conntrack.ct_flows import Flow
from cni.plan import Plan

from ...connection_log import journal
from ...connection_log.halves import Knowledge, egress_of, half, knowledge
from ...connection_log.search import search
from ...connection_log.sightings import OPEN, Query, Sighting


class ConnectionSearch:
    """The connection table and the log of this node. All methods block."""

    def open(self, plan: Plan, attachments: Iterable[Attachment], query: Query) -> list[Sighting]:
        """Return the entries of this node's connection table that match a query.

        Raises :class:`cni.kernel.errors.KernelError`.
        """
        known, now = knowledge(plan, attachments, {}), time.time()
        return [
            Sighting(OPEN, now, half(known, flow, egress), max(flow.bytes_out, -1), flow.bytes_in, known.node)
            for flow in _flows(known, query)
            if (egress := egress_of(known, flow.mark)) is not None
        ]

    def logged(self, path: Path, keep: int, query: Query) -> list[Sighting]:
        """Return the lines of the log that match. Raises OSError."""
        return search(path, keep, query)

    def in_journal(self, query: Query) -> list[Sighting]:
        """Return what systemd's journal has of these connections. Raises OSError."""
        return journal.find(query)


def _flows(known: Knowledge, query: Query) -> Iterator[Flow]:
    """Yield the connections of each egress IP that the address may belong to; the kernel filters them by mark."""
    # Behind source NAT, the end is the destination of answers; at the master, what is inside opened the connection.
    parts = [ct_flows.end_bytes(query.end, destination=True)]
    if query.inside:
        parts.append(ct_flows.end_bytes(query.end, destination=False))
    version = 6 if ":" in query.end[0] else 4

    def wanted(message: bytes) -> bool:
        return any(address in message and port in message for address, port in parts)

    for marks, mask in ((known.outgoing, known.layout.mask), (known.incoming, known.wide)):
        for mark, egress in marks.items():
            if egress.family == version and (query.inside or egress.address in ("", query.end[0])):
                yield from ct_flows.listed(version, with_mark(mark, mask), wanted)
