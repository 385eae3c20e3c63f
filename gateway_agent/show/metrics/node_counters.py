"""Hold counters of a node's kernel, for metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DeviceCounters:
    """Counters of a network interface, since its creation."""

    sent_bytes: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    received_packets: int = 0
    sent_dropped: int = 0
    """Packets that were not sent, errors included."""
    received_dropped: int = 0
    """Packets that were received and not passed on, errors included."""


@dataclass(frozen=True)
class NodeCounters:
    """Counters of the kernel."""

    devices: Mapping[str, DeviceCounters] = field(default_factory=dict)
    """Tunnel devices by name."""
    connections: int | None = None
    """Entries of the connection table; None: not known."""
    connections_limit: int | None = None
    """The largest number of entries; None: not known."""
    connections_refused: int | None = None
    """Connections that got no entry, since the node's start: the table was full, or their port was taken."""
    refused: Mapping[tuple[str, str], int] | None = None
    """Packets that rules of ours refused, by table and chain; None: not known."""
