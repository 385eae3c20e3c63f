"""Read counters of this node's kernel for metrics: interfaces and the connection table."""

from __future__ import annotations

from pathlib import Path

import psutil

from ...show.metrics.node_counters import DeviceCounters, NodeCounters

CONNTRACK = Path("/proc/sys/net/netfilter")
CONNTRACK_STATISTICS = Path("/proc/net/stat/nf_conntrack")


def read(prefix: str) -> NodeCounters:
    """Return the counters. ``prefix``: of the names of the requested devices."""
    devices = psutil.net_io_counters(pernic=True, nowrap=False)
    return NodeCounters(
        devices={
            name: DeviceCounters(
                sent_bytes=found.bytes_sent,
                received_bytes=found.bytes_recv,
                sent_packets=found.packets_sent,
                received_packets=found.packets_recv,
                sent_dropped=found.dropout + found.errout,
                received_dropped=found.dropin + found.errin,
            )
            for name, found in devices.items()
            if name.startswith(prefix)
        },
        connections=_number(CONNTRACK / "nf_conntrack_count"),
        connections_limit=_number(CONNTRACK / "nf_conntrack_max"),
        connections_refused=_refused(),
    )


def _number(path: Path) -> int | None:
    """Return the number in a file; None if there is no file, as before the first use of connection tracking."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _refused() -> int | None:
    """Return the number of connections that got no entry, of all processors; None without such statistics."""
    try:
        heading, *rows = CONNTRACK_STATISTICS.read_text().splitlines()
        columns = [heading.split().index(name) for name in ("insert_failed", "drop")]
        return sum(int(row.split()[column], 16) for row in rows for column in columns)
    except (OSError, ValueError, IndexError):
        return None
