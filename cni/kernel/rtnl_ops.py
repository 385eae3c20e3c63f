"""Requests for each kind of object but neighbour and forwarding entries, on an open pyroute2 socket.

The functions raise the errors of pyroute2 and the system; :mod:`cni.kernel.rtnl` translates these.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

from . import ids
from .netlink.constants import FAMILIES, RTNH_F_ONLINK
from .state import Address, Object, Route, Rule, Setting, Vxlan
from .sysctl import PROC_SYS_NET


def has_ipv6() -> bool:
    """Return True if this kernel has IPv6."""
    return (PROC_SYS_NET / "ipv6").is_dir()


def index_of(device: str) -> int:
    """Return the number of an interface. Raises OSError with ENODEV if it does not exist."""
    try:
        return socket.if_nametoindex(device)
    except OSError as error:
        # pyroute2 raises this error without a number.
        raise OSError(errno.ENODEV, f"no interface {device}") from error


def _put_vxlan(ipr: Any, device: Vxlan) -> None:
    try:
        index = index_of(device.name)
    except OSError:
        ipr.link(
            "add",
            ifname=device.name,
            kind="vxlan",
            vxlan_id=device.vni,
            vxlan_port=device.port,
            vxlan_learning=0,
            address=device.mac,
            mtu=device.mtu,
            **{"vxlan_local6" if ":" in device.local else "vxlan_local": device.local},
        )
        index = index_of(device.name)
        # On a device with an MTU too small for it the kernel has no IPv6, and no settings of it.
        if has_ipv6() and device.mtu >= ids.IPV6_MIN_MTU:
            # Before the device goes up: at that moment it would announce itself.
            _put_setting(ipr, Setting(device.name, "ipv6", "disable_ipv6", "1"))
    ipr.link("set", index=index, mtu=device.mtu, ifalias=device.alias, state="up" if device.up else "down")


def _put_setting(ipr: Any, setting: Setting) -> None:
    path = PROC_SYS_NET / setting.family / "conf" / setting.device / setting.name
    path.write_text(setting.value, encoding="ascii")


def _address(command: str) -> Callable[[Any, Any], None]:
    def request(ipr: Any, item: Address) -> None:
        index = index_of(item.device)
        ipr.addr(command, index=index, address=item.address, prefixlen=item.length)

    return request


def _route(command: str) -> Callable[[Any, Any], None]:
    def request(ipr: Any, item: Route) -> None:
        arguments: dict[str, Any] = {
            "family": FAMILIES[item.family],
            "dst": item.destination or ("0.0.0.0/0" if item.family == 4 else "::/0"),
            "table": item.table,
            "type": item.kind,
            "proto": ids.PROTOCOL,
        }
        if item.metric:
            arguments["priority"] = item.metric
        if item.device:
            arguments["oif"] = index_of(item.device)
        if item.via:
            arguments.update(gateway=item.via, flags=RTNH_F_ONLINK)
        elif item.device:
            arguments["scope"] = "link"
        ipr.route(command, **arguments)

    return request


def _rule(command: str) -> Callable[[Any, Any], None]:
    def request(ipr: Any, item: Rule) -> None:
        ipr.rule(
            command,
            family=FAMILIES[item.family],
            priority=item.priority,
            fwmark=item.mark,
            fwmask=item.mask,
            table=item.table,
            protocol=ids.PROTOCOL,
            **({"iifname": item.iif} if item.iif else {}),
        )

    return request


def _delete_link(ipr: Any, item: Vxlan) -> None:
    ipr.link("del", index=index_of(item.name))


def _never(ipr: Any, item: Object) -> None:
    raise AssertionError(f"{item} goes with its device")


OPERATIONS: dict[type, tuple[Callable[[Any, Any], None], Callable[[Any, Any], None]]] = {
    Vxlan: (_put_vxlan, _delete_link),
    Setting: (_put_setting, _never),
    Address: (_address("replace"), _address("del")),
    Route: (_route("replace"), _route("del")),
    Rule: (_rule("add"), _rule("del")),
}
