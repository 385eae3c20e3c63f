"""Decide which events of the connection table become lines of the log. Pure."""

from __future__ import annotations

from typing import NamedTuple

from cni.kernel.netlink.conntrack.ct_flows import Flow

from .halves import Half, Knowledge, came_by_tunnel, egress_of, half

START, END = "start", "end"
MAX_STARTS = 1 << 20
"""Largest number of remembered starts: as many as the kernel's table has entries on a large node."""


class Record(NamedTuple):
    """The start or the end of a connection."""

    event: str
    half: Half
    bytes_out: int
    """Bytes that the pod has sent, IP headers included; -1: not counted, or not ended yet."""
    bytes_in: int


class Recorder:
    """The starts of open connections, so that an end names the pod and gateway of its start."""

    def __init__(self) -> None:
        self._starts: dict[int, Half] = {}

    def begun(self, known: Knowledge, flow: Flow, injected: bool) -> Record | None:
        """Return the record of a new entry in the table; None if it uses no egress IP.

        ``injected``: True if a program added the entry. That is ``connectionSync``: the connection began on another
        node.
        """
        egress = egress_of(known, flow.mark)
        if egress is None or injected:
            return None
        found = half(known, flow, egress)
        if len(self._starts) >= MAX_STARTS:
            # Ends were lost, and the oldest starts are the likeliest ones.
            del self._starts[next(iter(self._starts))]
        self._starts[_key(flow)] = found
        return Record(START, found, -1, -1)

    def ended(self, known: Knowledge, flow: Flow) -> Record | None:
        """Return the record of an entry that has left the table; None if it used no egress IP."""
        start = self._starts.pop(_key(flow), None)
        if start is not None:
            return Record(END, start, flow.bytes_out, flow.bytes_in)
        egress = egress_of(known, flow.mark)
        if egress is None:
            return None
        # A standby has copies of the master's connections: the master logs their ends.
        if egress.sync and came_by_tunnel(known, flow.mark) and egress.id not in known.served:
            return None
        return Record(END, half(known, flow, egress), flow.bytes_out, flow.bytes_in)


def _key(flow: Flow) -> int:
    """Return a number that is unique among open connections.

    ``CTA_ID`` alone is a hash of 32 bits, which two may share.
    """
    return flow.identity << 32 | flow.original.source_port << 16 | flow.original.destination_port
