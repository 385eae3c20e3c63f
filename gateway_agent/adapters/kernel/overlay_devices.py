"""Find the devices of overlays (VXLAN, Geneve, bare UDP) of a node, and the UDP ports at which they take packets."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from cni.kernel.errors import KernelError
from cni.kernel.netlink import links

DEVICES = Path("/sys/class/net")


class Overlay(NamedTuple):
    """The end of an overlay on this node."""

    port: int
    """UDP port at which the device takes packets."""
    address: str
    """Address at which it takes them; empty: at all addresses of the node."""


def of(names: Collection[str]) -> dict[str, Overlay]:
    """Return the overlay devices among these interfaces, by name.

    The kernel lists the interfaces of one kind, but all of them if it has not loaded the kind: a node may have
    hundreds, so the kinds come from the device types that are listed for each interface.
    """
    kinds = {_kind(name) for name in names} & set(links.UDP_PORTS)
    return dict(_found(kinds, names))


def _found(kinds: Collection[str], names: Collection[str]) -> Iterator[tuple[str, Overlay]]:
    for kind in kinds:
        with contextlib.suppress(KernelError):
            for name, port, address in links.udp_ports(kind):
                if port and name in names:
                    yield name, Overlay(port, address)


def _kind(name: str) -> str:
    """Return the device type of an interface; empty if it has none, or is gone."""
    with contextlib.suppress(OSError):
        for line in (DEVICES / name / "uevent").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition("=")
            if key == "DEVTYPE":
                return value
    return ""
