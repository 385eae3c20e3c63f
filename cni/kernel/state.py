"""Our kernel objects as plain data: the same types for what exists and for what should exist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Union

from . import ids

Key = tuple[object, ...]


@dataclass(frozen=True)
class Vxlan:
    """A VXLAN device without learning (RFC 7348)."""

    name: str
    vni: int
    local: str
    port: int
    mac: str
    mtu: int
    """MTU of the device, bytes."""
    alias: str
    up: bool = True

    @property
    def key(self) -> Key:
        """The identity of the object: two with one key are versions of it."""
        return ("vxlan", self.name)

    @property
    def identity(self) -> Key:
        """Fields that cannot change while the device exists; with another MAC the kernel would drop all neighbours."""
        return (self.name, self.vni, self.local, self.port, self.mac)

    def __str__(self) -> str:
        return f"device {self.name} (VXLAN {self.vni} from {self.local}, port {self.port})"


@dataclass(frozen=True)
class Setting:
    """A sysctl of one of our devices: ``net.<family>.conf.<device>.<name>``. It dies with the device."""

    device: str
    family: str
    """``ipv4`` or ``ipv6``."""
    name: str
    value: str

    @property
    def key(self) -> Key:
        """The identity of the object: two with one key are versions of it."""
        return ("setting", self.device, self.family, self.name)

    def __str__(self) -> str:
        return f"net.{self.family}.conf.{self.device}.{self.name} = {self.value}"


@dataclass(frozen=True)
class Address:
    """An IPv4 address on one of our devices. IPv6 needs none."""

    device: str
    address: str
    length: int
    """Length of the prefix, in bits."""

    @property
    def key(self) -> Key:
        """The identity of the object: two with one key are versions of it."""
        return ("address", self.device, self.address, self.length)

    def __str__(self) -> str:
        return f"address {self.address}/{self.length} on {self.device}"


@dataclass(frozen=True)
class Fdb:
    """Frames to ``mac`` go to the node at ``destination``."""

    device: str
    mac: str
    destination: str

    @property
    def key(self) -> Key:
        """The identity of the object: two with one key are versions of it."""
        # Of the entry for everything else there is one for each destination.
        return ("fdb", self.device, self.mac, self.destination if self.mac == ids.FLOOD_MAC else "")

    def __str__(self) -> str:
        return f"forwarding entry {self.mac} to {self.destination} on {self.device}"


@dataclass(frozen=True)
class Neighbour:
    """A permanent neighbour entry."""

    device: str
    address: str
    mac: str

    @property
    def key(self) -> Key:
        """The identity of the object: two with one key are versions of it."""
        return ("neighbour", self.device, self.address)

    def __str__(self) -> str:
        return f"neighbour {self.address} at {self.mac} on {self.device}"


@dataclass(frozen=True)
class Route:
    """A route of one of our tables. ``kind``: ``unicast``, ``unreachable`` or ``throw``."""

    family: int
    """4 or 6."""
    table: int
    kind: str
    metric: int = 0
    device: str = ""
    via: str = ""
    """A next hop that counts as on the link; empty: the destination is on the link."""
    destination: str = ""
    """Prefix in canonical form; empty: the default route."""

    @property
    def key(self) -> Key:
        """The identity of the object: two with one key are versions of it."""
        return ("route", self.family, self.table, self.destination, self.metric)

    def __str__(self) -> str:
        kind = "" if self.kind == "unicast" else f"{self.kind} "
        via = f" via {self.via}" if self.via else ""
        device = f" dev {self.device}" if self.device else ""
        return f"IPv{self.family} route {kind}{self.destination or 'default'}{via}{device} table {self.table}"


@dataclass(frozen=True)
class Rule:
    """``ip rule``: packets with this mark look into this table."""

    family: int
    """4 or 6."""
    priority: int
    mark: int
    mask: int
    table: int
    iif: str = ""
    """Interface by which a packet must come; empty: any."""

    @property
    def key(self) -> Key:
        """The identity of the object: two with one key are versions of it."""
        return ("rule", self.family, self.priority, self.mark, self.mask, self.table, self.iif)

    def __str__(self) -> str:
        mark = f"{self.mark:#x}/{self.mask:#x}" + (f" from {self.iif}" if self.iif else "")
        return f"IPv{self.family} rule {self.priority}: mark {mark} looks up table {self.table}"


Object = Union[Vxlan, Setting, Address, Fdb, Neighbour, Route, Rule]
PUT_ORDER = (Vxlan, Setting, Address, Fdb, Neighbour, Route, Rule)
"""Kinds of objects in the order in which they are put: each needs those before it. A rule comes last: it steers."""
DELETE_ORDER = (Rule, Route, Neighbour, Fdb, Address, Vxlan)
"""A sysctl is never deleted: it goes with its device."""


@dataclass(frozen=True)
class KernelState:
    """All our objects that exist, or that should exist."""

    vxlans: frozenset[Vxlan] = field(default_factory=frozenset)
    settings: frozenset[Setting] = field(default_factory=frozenset)
    addresses: frozenset[Address] = field(default_factory=frozenset)
    fdb: frozenset[Fdb] = field(default_factory=frozenset)
    neighbours: frozenset[Neighbour] = field(default_factory=frozenset)
    routes: frozenset[Route] = field(default_factory=frozenset)
    rules: frozenset[Rule] = field(default_factory=frozenset)

    def __iter__(self) -> Iterator[Object]:
        yield from self.vxlans
        yield from self.settings
        yield from self.addresses
        yield from self.fdb
        yield from self.neighbours
        yield from self.routes
        yield from self.rules
