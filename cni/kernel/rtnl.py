"""The objects of :mod:`cni.kernel.state` by rtnetlink: the only module that imports pyroute2.

The first call imports pyroute2, which takes 0.2 s. Every call opens a socket of its own
(under 1 ms): nothing here is bound to a thread or to a network namespace. All calls raise
:class:`~cni.kernel.errors.KernelError`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from . import ids
from .diff import Change
from .errors import KernelError, refused
from .netlink import entries
from .netlink.constants import (
    FAMILIES,
    NTF_USE,
    NUD_NONE,
    RTN_THROW,
    RTN_UNICAST,
    RTN_UNREACHABLE,
)
from .netlink.links import vxlans
from .rtnl_ops import OPERATIONS, has_ipv6
from .state import Address, Fdb, KernelState, Neighbour, Route, Rule, Setting
from .sysctl import PROC_SYS_NET

ROUTE_KINDS = {"unicast": RTN_UNICAST, "unreachable": RTN_UNREACHABLE, "throw": RTN_THROW}
SETTINGS = (
    ("ipv4", "rp_filter"),
    ("ipv4", "forwarding"),
    *(("ipv6", name) for name in ("accept_ra", "addr_gen_mode", "autoconf", "disable_ipv6")),
)
SYNC_SETTINGS = (("ipv4", "accept_local"),)
GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL)
"""Error numbers for an object that is to be deleted and does not exist."""


@contextmanager
def _netlink(doing: str) -> Iterator[Any]:
    """Open a socket; a refusal of the kernel becomes a :class:`KernelError` that begins with ``doing``."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        # Strict: the kernel itself filters dumps, by protocol and device.
        with IPRoute(strict_check=True) as ipr:
            yield ipr
    except NetlinkError as error:
        raise refused(doing, error.code) from error
    except OSError as error:
        raise refused(doing, error.errno or errno.EIO) from error


# --- observing ---------------------------------------------------------------------------------------------


def observe() -> KernelState:
    """Return our objects in the kernel: devices by their names, routes and rules by their protocol number."""
    ours = {index: vxlan for index, vxlan in vxlans() if vxlan.name.startswith(ids.DEVICE_PREFIX)}
    names = {index: vxlan.name for index, vxlan in ours.items()}
    with _netlink("reading the kernel's state") as ipr:
        families = (4, 6) if has_ipv6() else (4,)
        return KernelState(
            vxlans=frozenset(ours.values()),
            settings=frozenset(setting for name in names.values() for setting in _settings(name)),
            addresses=frozenset(_addresses(ipr, names)),
            fdb=frozenset(entries.forwarding(names)),
            neighbours=frozenset(entry for family in families for entry in entries.neighbours(family, names)),
            routes=frozenset(route for family in families for route in _routes(ipr, family, names)),
            rules=frozenset(rule for family in families for rule in _rules(ipr, family)),
        )


def _settings(device: str) -> Iterator[Setting]:
    for family, name in (*SETTINGS, *(SYNC_SETTINGS if device == ids.SYNC_DEVICE else ())):
        try:
            value = (PROC_SYS_NET / family / "conf" / device / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        yield Setting(device, family, name, value)


def _addresses(ipr: Any, names: dict[int, str]) -> Iterator[Address]:
    for address in ipr.get_addr(family=socket.AF_INET):
        if address["index"] in names:
            yield Address(names[address["index"]], address.get_attr("IFA_LOCAL"), address["prefixlen"])


def _routes(ipr: Any, family: int, names: dict[int, str]) -> Iterator[Route]:
    kinds = {number: kind for kind, number in ROUTE_KINDS.items()}
    for route in ipr.get_routes(family=FAMILIES[family], proto=ids.PROTOCOL):
        table = route.get_attr("RTA_TABLE") or route["table"]
        if route["proto"] == ids.PROTOCOL and table >= ids.TABLE_BASE:
            kind = kinds.get(route["type"], str(route["type"]))
            device = _name(route.get_attr("RTA_OIF"), names) if kind == "unicast" else ""
            metric, via = route.get_attr("RTA_PRIORITY") or 0, route.get_attr("RTA_GATEWAY") or ""
            destination = f"{route.get_attr('RTA_DST')}/{route['dst_len']}" if route["dst_len"] else ""
            yield Route(family, table, kind, metric, device, via, destination)


def _name(index: int | None, names: dict[int, str]) -> str:
    """Return the name of an interface, ours or not; empty if the interface is gone."""
    if index is None or index in names:
        return names.get(index or 0, "")
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def _rules(ipr: Any, family: int) -> Iterator[Rule]:
    for rule in ipr.get_rules(family=FAMILIES[family]):
        if rule.get_attr("FRA_PROTOCOL") == ids.PROTOCOL:
            yield Rule(
                family,
                rule.get_attr("FRA_PRIORITY") or 0,
                rule.get_attr("FRA_FWMARK") or 0,
                rule.get_attr("FRA_FWMASK") or 0,
                rule.get_attr("FRA_TABLE") or rule["table"],
                rule.get_attr("FRA_IIFNAME") or "",
            )


# --- changing ----------------------------------------------------------------------------------------------


def apply(changes: Sequence[Change]) -> dict[Change, KernelError]:
    """Make the changes, in their order. Return those that the kernel refuses; the others are made all the same.

    Deleting an object that is gone already is no refusal. Raises KernelError if the kernel does not answer.
    """
    if not changes:
        return {}
    codes: dict[Change, int] = {}
    with _netlink("changing the kernel's state") as ipr:
        for of_entries, some in groupby(changes, lambda change: isinstance(change.target, (Fdb, Neighbour))):
            alike = list(some)
            codes.update(zip(alike, _apply_entries(alike) if of_entries else _apply_each(ipr, alike)))
    return {change: refused(f"could not be {change}", code) for change, code in codes.items() if code}


def _apply_entries(changes: Sequence[Change]) -> Iterator[int]:
    """Make changes of neighbour and forwarding entries: there may be thousands of them. Yield an error number each."""
    asked = [(c.action, c.target) for c in changes if isinstance(c.target, (Fdb, Neighbour))]
    for change, code in zip(changes, entries.change(asked)):
        yield 0 if change.action == "delete" and code in GONE else code


def _apply_each(ipr: Any, changes: Sequence[Change]) -> Iterator[int]:
    """Make changes one by one. Yield an error number for each; 0: it is made."""
    for change in changes:
        yield _apply_one(ipr, change)


def _apply_one(ipr: Any, change: Change) -> int:
    from pyroute2.netlink.exceptions import NetlinkError

    put, delete = OPERATIONS[type(change.target)]
    try:
        (put if change.action == "put" else delete)(ipr, change.target)
    except (NetlinkError, OSError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno or errno.EIO
        if change.action == "delete" and code in GONE:
            return 0
        # All other objects are replaced. A rule can only be added; an equal rule that exists already serves as well.
        if change.action == "put" and isinstance(change.target, Rule) and code == errno.EEXIST:
            return 0
        return int(code)
    return 0


# --- finding -----------------------------------------------------------------------------------------------


def leading(addresses: Sequence[str]) -> dict[str, str]:
    """Return for each address the veth that leads to it: by a route, or as a port of the bridge of a route.

    If a bridge has no neighbour entry for the address yet, the kernel is made to ask: the next call may return more.
    """
    with _netlink("looking for what leads to pods") as ipr:
        links = {link["index"]: link for link in ipr.get_links()}
        ports = {
            entry.get_attr("NDA_LLADDR"): entry["ifindex"]
            for entry in ipr.get_neighbours(family=socket.AF_BRIDGE)
            if entry.get_attr("NDA_MASTER")
        }
        found = {address: _leading(ipr, links, ports, address) for address in addresses}
        return {address: name for address, name in found.items() if name}


def _leading(ipr: Any, links: dict[int, Any], ports: dict[str, int], address: str) -> str:
    from pyroute2.netlink.exceptions import NetlinkError

    family = FAMILIES[6 if ":" in address else 4]
    try:
        route = next(iter(ipr.route("get", dst=address, family=family)))
    except NetlinkError:
        return ""
    index = route.get_attr("RTA_OIF")
    if route.get_attr("RTA_GATEWAY") or index not in links:
        return ""
    if _kind(links[index]) == "bridge":
        known = ipr.get_neighbours(family=family, ifindex=index)
        mac = next((e.get_attr("NDA_LLADDR") for e in known if e.get_attr("NDA_DST") == address), None)
        if mac not in ports:
            ipr.neigh("replace", dst=address, ifindex=index, family=family, state=NUD_NONE, flags=NTF_USE)
            return ""
        index = ports[mac]
    return str(links[index].get_attr("IFLA_IFNAME")) if _kind(links.get(index)) == "veth" else ""


def _kind(link: Any) -> str:
    return str(link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "") if link else ""
