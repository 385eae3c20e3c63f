"""What the kernel says of the node's interfaces, and whether it forwards."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import psutil

from ..core.readiness import InterfaceFacts


def read() -> dict[str, InterfaceFacts]:
    """Facts of every interface, by name."""
    addresses = psutil.net_if_addrs()
    facts = {}
    for name, stats in psutil.net_if_stats().items():
        flags = stats.flags.split(",")
        inet = tuple(entry.address for entry in addresses.get(name, ()) if entry.family == socket.AF_INET)
        facts[name] = InterfaceFacts(
            up="up" in flags,
            carrier="up" in flags and "running" in flags,
            mtu=stats.mtu,
            addresses=inet,
            forwarding=_forwarding(name),
        )
    return facts


def _forwarding(name: str) -> bool:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/net/ipv4/conf", name, "forwarding").read_text(encoding="ascii").strip() == "1"
    return False
