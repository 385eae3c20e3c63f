"""The changes that turn the kernel's state into the desired one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from . import ids
from .state import DELETE_ORDER, PUT_ORDER, Fdb, KernelState, Neighbour, Object, Route, Rule, Setting, Vxlan

MAX_LINES = 10
"""Changes of one kind that are described one by one."""


@dataclass(frozen=True)
class Change:
    """One request to the kernel. ``put`` creates an object, or replaces the one with the same key."""

    action: str
    """``put`` or ``delete``."""
    target: Object
    replaces: bool = False
    """True for a ``put`` where an object with this key is present that differs from the desired one."""

    def __str__(self) -> str:
        """Describe the change that was made."""
        verb = "removed" if self.action == "delete" else "corrected" if self.replaces else "added"
        return f"{verb} {self.target}"

    @property
    def problem(self) -> str:
        """The reason for the change."""
        there = "not as it should be" if self.replaces else "missing"
        fault = "not needed" if self.action == "delete" else there
        return f"{self.target}: {fault}"


def diff(observed: KernelState, desired: KernelState) -> tuple[Change, ...]:
    """Return the changes that turn ``observed`` into ``desired``, in an order that never opens a leak.

    ``unreachable`` routes come first, so that a table that loses its exit answers with an error; then superfluous
    objects are removed; then the rest is added. The neighbour entry of :data:`ids.NEXT_HOP` is created if it is
    missing, but neither corrected nor removed while its device stays: it belongs to the lease daemon, and is newer
    than any plan.
    """
    gone = _gone(observed, desired)
    there = {item.key: item for item in observed if not _dies_with(item, gone)}
    wanted = {item.key: item for item in _possible(desired)}
    puts = [
        Change("put", item, replaces=key in there)
        for key, item in wanted.items()
        if there.get(key) != item and not (key in there and is_master(item))
    ]
    deletes = [Change("delete", device) for device in observed.vxlans if device.name in gone]
    deletes += [
        Change("delete", item)
        for key, item in there.items()
        if key not in wanted and not isinstance(item, Setting) and not is_master(item)
    ]
    return (
        *_in_order((change for change in puts if _is_unreachable(change.target)), PUT_ORDER),
        *_in_order(deletes, DELETE_ORDER),
        *_in_order((change for change in puts if not _is_unreachable(change.target)), PUT_ORDER),
    )


def described(changes: Iterable[Change]) -> Iterator[str]:
    """Describe changes that were made; many entries of one device, as with many nodes, in one line."""
    for _, some in groupby(changes, _kind):
        alike = list(some)
        if len(alike) <= MAX_LINES or not isinstance(alike[0].target, (Fdb, Neighbour)):
            yield from map(str, alike)
        else:
            first = alike[0]
            yield f"{first}, and {len(alike) - 1} more of this kind"


def _kind(change: Change) -> tuple[object, ...]:
    target = change.target
    device = target.device if isinstance(target, (Fdb, Neighbour)) else ""
    return change.action, change.replaces, type(target), device


def is_master(item: Object) -> bool:
    """Return True for the neighbour entry that points at the master."""
    return isinstance(item, Neighbour) and item.address in (ids.NEXT_HOP, ids.NEXT_HOP6)


def _possible(desired: KernelState) -> Iterator[Object]:
    """Yield all objects but IPv6 neighbours of devices that should have no IPv6: the kernel refuses such neighbours."""
    able = {item.device for item in desired.settings if (item.name, item.value) == ("disable_ipv6", "0")}
    for item in desired:
        if not isinstance(item, Neighbour) or ":" not in item.address or item.device in able:
            yield item


def _gone(observed: KernelState, desired: KernelState) -> frozenset[str]:
    """Return the names of devices to delete: unwanted ones, and those with another identity than the wanted one."""
    wanted = {device.identity for device in desired.vxlans}
    return frozenset(device.name for device in observed.vxlans if device.identity not in wanted)


def _dies_with(item: Object, devices: frozenset[str]) -> bool:
    """Return True if the kernel removes the object together with one of these devices."""
    if isinstance(item, Vxlan):
        return item.name in devices
    return not isinstance(item, Rule) and item.device in devices


def _is_unreachable(item: Object) -> bool:
    return isinstance(item, Route) and item.kind == "unreachable"


def _in_order(changes: Iterable[Change], order: tuple[type, ...]) -> list[Change]:
    """Sort by kind in this order, then by text, so that equal input gives equal output."""
    return sorted(changes, key=lambda change: (order.index(type(change.target)), str(change.target)))
