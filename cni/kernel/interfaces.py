"""Interfaces and the tags of pods, without pyroute2: this is done at each pod start, and a node may have hundreds.

All raise :class:`~cni.kernel.errors.KernelError`.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping

from . import ids
from .errors import refused
from .rtnetlink import NLM_F_ACK, Socket, attribute, attributes
from .state import Vxlan

# linux/rtnetlink.h, linux/if_link.h
RTM_GETLINK = 18
RTM_SETLINK = 19
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU = 1, 3, 4
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_GROUP, IFLA_EXT_MASK = 18, 20, 27, 29
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_VXLAN_ID, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT, IFLA_VXLAN_LOCAL6 = 1, 4, 7, 15, 17
LINK = struct.Struct("=BxHiII")
"""``struct ifinfomsg``: family, type, index, flags, change."""
FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}
"""By the length of an address."""
NAME_BYTES = 15
"""``IFNAMSIZ`` less the NUL at the end; the kernel refuses longer names as malformed."""


def listed(kind: str = "") -> Iterator[tuple[int, int, dict[int, bytes]]]:
    """Index, flags and attributes of every interface, without its statistics; with ``kind`` of these, unless the kernel
    does not know that kind."""
    wanted = attribute(IFLA_EXT_MASK, struct.pack("=I", RTEXT_FILTER_SKIP_STATS))
    if kind:
        wanted += attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode()))
    try:
        with Socket() as kernel:
            found = kernel.dump(RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0) + wanted)
    except OSError as error:
        raise refused("listing the interfaces", error.errno or errno.EIO) from error
    for _, body in found:
        _, _, index, flags, _ = LINK.unpack_from(body)
        yield index, flags, attributes(body[LINK.size :])


def tagged() -> dict[str, int]:
    """Every interface whose group is in our range."""
    groups = {name_of(found): _group(found) for _, _, found in listed()}
    return {name: group for name, group in groups.items() if ids.GROUP_BASE <= group <= ids.GROUP_BLOCKED}


def vxlans() -> Iterator[tuple[int, Vxlan]]:
    """Every VXLAN device, by its index."""
    for index, flags, found in listed("vxlan"):
        # A kernel that has not loaded its module lists all interfaces.
        device = vxlan_of(flags, found)
        if device is not None:
            yield index, device


def vxlan_of(flags: int, found: Mapping[int, bytes]) -> Vxlan | None:
    """What :func:`listed` has of a VXLAN device; None where it is another one."""
    info = attributes(found.get(IFLA_LINKINFO, b""))
    if info.get(IFLA_INFO_KIND, b"").rstrip(b"\0") != b"vxlan":
        return None
    data = attributes(info.get(IFLA_INFO_DATA, b""))
    local = data.get(IFLA_VXLAN_LOCAL) or data.get(IFLA_VXLAN_LOCAL6)
    return Vxlan(
        name=name_of(found),
        vni=int.from_bytes(data.get(IFLA_VXLAN_ID, b""), sys.byteorder),
        local=socket.inet_ntop(FAMILIES[len(local)], local) if local and len(local) in FAMILIES else "",
        # A device that learns is none of ours, whatever its name: as one of another port it is made anew.
        port=0 if any(data.get(IFLA_VXLAN_LEARNING, b"")) else int.from_bytes(data.get(IFLA_VXLAN_PORT, b""), "big"),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=int.from_bytes(found.get(IFLA_MTU, b""), sys.byteorder),
        alias=found.get(IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="surrogateescape"),
        up=bool(flags & IFF_UP),
    )


def name_of(found: Mapping[int, bytes]) -> str:
    return found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="surrogateescape")


def _group(found: Mapping[int, bytes]) -> int:
    return int.from_bytes(found.get(IFLA_GROUP, b""), sys.byteorder)


def host_veth(names: Iterable[str]) -> str | None:
    """The first of these interfaces that exists and is a veth; None where none is."""
    with Socket() as kernel:
        for name in names:
            found = _link(kernel, name)
            if found and attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b"").rstrip(b"\0") == b"veth":
                return name
    return None


def tag_of(device: str) -> int | None:
    """The group of an interface; None where it does not exist."""
    with Socket() as kernel:
        found = _link(kernel, device)
    return None if found is None else _group(found)


def tag(device: str, group: int) -> None:
    """Puts an interface into an interface group; 0 is the kernel's default group."""
    body = LINK.pack(0, 0, 0, 0, 0) + _name(device) + attribute(IFLA_GROUP, struct.pack("=I", group))
    try:
        with Socket() as kernel:
            # By name: between looking up an index and using it the interface could be another one.
            kernel.request(RTM_SETLINK, NLM_F_ACK, body)
    except OSError as error:
        raise refused(f"tagging {device}", _code(error, device)) from error


def _link(kernel: Socket, device: str) -> dict[int, bytes] | None:
    try:
        answer = kernel.request(RTM_GETLINK, 0, LINK.pack(0, 0, 0, 0, 0) + _name(device))
    except OSError as error:
        code = _code(error, device)
        if code == errno.ENODEV:
            return None
        raise refused(f"looking at {device}", code) from error
    return attributes(answer[LINK.size :])


def _name(device: str) -> bytes:
    return attribute(IFLA_IFNAME, device.encode(errors="surrogateescape") + b"\0")


def _code(error: OSError, device: str) -> int:
    """A name that no interface can have is one that is not there."""
    return errno.ENODEV if not 0 < len(device) <= NAME_BYTES else error.errno or errno.EIO
