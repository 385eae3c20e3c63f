"""Send probes through this node's own tunnels, and find out which reach the egress interface.

:mod:`cni.datapath.path_proof` describes probes, and why none leaves the node.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from cni.kernel import ids
from cni.kernel.errors import KernelError
from cni.kernel.netlink.nflog import PacketLog
from cni.kernel.nftables import nft

from ...policy.egress_node import path_faults
from ...policy.egress_node.path_faults import Answers, Dropped, TunnelProbe
from . import answer_counters, legacy_tables, nft_trace
from .tunnel_packet import encapsulated, number_in

ANSWER_S = 0.1
"""Seconds to wait for probes. A packet passes in microseconds; the rest is for a busy machine."""
TRACE_S = 0.3
TRIES = 3
BUSY_S, POLL_INTERVAL_S = 1.0, 0.005
COPIED_BYTES = 64
TAKEN = (errno.EBUSY, errno.EPERM)
"""The kernel's answers if another socket has the packet log. The second also means that a right is missing."""
MAX_PROBES = 0xFFFF
BATCH = 64
"""Probes that are sent before the packet log is read: its buffer holds about 270."""


class PathProbe:
    """The probes of one node. Every method blocks."""

    def __init__(self, port: int) -> None:
        """``port``: of the tunnels."""
        self._port = port
        self._table_left = False
        """True if the table of a trace is left, because the kernel refused to remove it."""
        self._log: PacketLog | None = None
        """Kept open, without a group, between two probes: closing it would delay the lease daemon."""

    def remove_trace(self) -> None:
        """Remove the table of an interrupted trace of this process or an earlier one."""
        self._table_left = True
        # The table marks only probes, so no test waits for its removal: the next round tries again.
        with contextlib.suppress(KernelError):
            nft_trace.remove()
            self._table_left = False

    def answers(self) -> Answers:
        """Return the numbers of replies at both counters. Raises :class:`cni.kernel.errors.KernelError`."""
        return answer_counters.read()

    def passing(self, node_address: str, probes: Sequence[TunnelProbe]) -> frozenset[TunnelProbe]:
        """Return the probes that got through. ``node_address``: this node's end of the tunnels.

        Raises OSError if probes cannot be sent or seen: another program has the packet log, or a right is missing.
        """
        if self._table_left:
            self.remove_trace()
        left = dict(enumerate(probes[:MAX_PROBES], 1))
        with (
            self._bound() as log,
            _sender(node_address) as udp,
        ):
            for _ in range(TRIES):
                for batch in _batches(tuple(left.items())):
                    for number, probe in batch:
                        udp.sendto(encapsulated(probe, node_address, number), (node_address, self._port))
                    _take_off(left, log)
                deadline = time.monotonic() + ANSWER_S
                while left and select.select([log], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    _take_off(left, log)
                if not left:
                    break
        return frozenset(probes) - set(left.values())

    @contextlib.contextmanager
    def _bound(self) -> Iterator[PacketLog]:
        """Yield the packet log, once no other process of ours has it: the agent and ``egressctl doctor`` both probe."""
        log = self._log = self._log or PacketLog()
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                log.bind(ids.PROBE_GROUP, COPIED_BYTES)
                break
            except OSError as error:
                if error.errno not in TAKEN or time.monotonic() >= deadline:
                    raise
            time.sleep(POLL_INTERVAL_S)
        try:
            yield log
        finally:
            log.unbind(ids.PROBE_GROUP)

    def largest(self, node_address: str, probe: TunnelProbe, limit: int) -> int:
        """Return the size of the largest packet that gets through, between that of ``probe`` and ``limit``, in bytes.

        Raises OSError.
        """
        least, most = probe.bytes, limit
        while least < most:
            middle = (least + most + 1) // 2
            if self.passing(node_address, [replace(probe, bytes=middle)]):
                least = middle
            else:
                most = middle - 1
        return least

    def dropped_by(self, node_address: str, probe: TunnelProbe, device: str) -> Dropped | None:
        """Return where a probe that does not get through is dropped; None if it does not come out of ``device``.

        Raises OSError and :class:`cni.kernel.errors.KernelError`.
        """
        family = 6 if ":" in probe.destination else 4
        legacy = legacy_tables.listed(family)
        try:
            with nft_trace.Trace(device) as trace, _sender(node_address) as udp:
                udp.sendto(encapsulated(probe, node_address, 1), (node_address, self._port))
                steps = trace.steps(TRACE_S)
        finally:
            self.remove_trace()
        if not steps:
            return None
        last = steps[-1]
        # Rules of iptables-legacy are in no trace, but each has a counter.
        if not last.dropped and legacy:
            found = path_faults.of_legacy(family, legacy, legacy_tables.listed(family))
            if found is not None:
                return found
        base, rule, hook = nft_trace.base_chain(steps), "", ""
        # The owner of the chains may have removed them meanwhile.
        with contextlib.suppress(KernelError):
            hook = nft_trace.hook(nft.run("list", "chain", last.family, last.table, base))
            if last.dropped and last.handle:
                rule = nft_trace.rule(
                    last, nft.run("-a", "list", "chain", last.family, last.table, last.chain)
                )
        return Dropped(last.family, last.table, last.chain, base, rule, last.dropped, hook)


def _batches(numbered: tuple[tuple[int, TunnelProbe], ...]) -> Iterator[tuple[tuple[int, TunnelProbe], ...]]:
    return (numbered[start : start + BATCH] for start in range(0, len(numbered), BATCH))


def _take_off(left: dict[int, TunnelProbe], log: PacketLog) -> None:
    """Remove from ``left`` the probes that the packet log has."""
    for packet in log.packets():
        left.pop(number_in(packet), None)


@contextlib.contextmanager
def _sender(node_address: str) -> Iterator[socket.socket]:
    """Yield a socket that may send to the tunnel port: see :mod:`cni.datapath.tunnel_port_guard`. Raises OSError."""
    family = socket.AF_INET6 if ":" in node_address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, ids.ENCAPSULATED)
        yield udp
