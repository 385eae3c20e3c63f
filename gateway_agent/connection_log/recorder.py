"""Decide which events of the connection table become lines of the log. Pure."""

from __future__ import annotations

from typing import NamedTuple

from cni.kernel.netlink.conntrack.ct_flows import Flow

from .halves import Half, Knowledge, came_by_tunnel, egress_of, half

START, END = "start", "end"
MAX_STARTS = 1 << 20
"""Connections whose start is remembered: as many as the kernel's table holds on a large node."""


class Record(NamedTuple):
    """A start or an end."""

    event: str
    half: Half
    bytes_out: int
    """Bytes that the pod has sent, IP headers included; -1: not counted, or not over yet."""
    bytes_in: int


class Recorder:
    """Remembers the starts, so that an end names the pod and the gateway of that time."""

    def __init__(self) -> None:
        self._starts: dict[int, Half] = {}

    def begun(self, known: Knowledge, flow: Flow, injected: bool) -> Record | None:
        """Return the record of a connection that is new in the table; None if it is none of ours.

        ``injected``: a program has put it there. That is ``connectionSync``: it has begun on another node.
        """
        egress = egress_of(known, flow.mark)
        if egress is None or injected:
            return None
        found = half(known, flow, egress)
        if len(self._starts) >= MAX_STARTS:
            # Ends were lost: the oldest starts are those.
            del self._starts[next(iter(self._starts))]
        self._starts[_key(flow)] = found
        return Record(START, found, -1, -1)

    def ended(self, known: Knowledge, flow: Flow) -> Record | None:
        """Return the record of a connection that has left the table; None if it is none of ours."""
        start = self._starts.pop(_key(flow), None)
        if start is not None:
            return Record(END, start, flow.bytes_out, flow.bytes_in)
        egress = egress_of(known, flow.mark)
        if egress is None:
            return None
        # A standby has copies of connections that the master has: they end there.
        if egress.sync and came_by_tunnel(known, flow.mark) and egress.id not in known.served:
            return None
        return Record(END, half(known, flow, egress), flow.bytes_out, flow.bytes_in)


def _key(flow: Flow) -> int:
    """Return a number that no other open connection has. ``CTA_ID`` alone is a hash, of 32 bits: two may share it."""
    return flow.identity << 32 | flow.original.source_port << 16 | flow.original.destination_port
