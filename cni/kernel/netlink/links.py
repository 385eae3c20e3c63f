"""Interfaces and the tags of pods, without pyroute2: this is done at each pod start, and a node may have hundreds.

All raise :class:`~cni.kernel.errors.KernelError`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from .. import ids
from ..errors import refused
from ..state import Vxlan
from .rtnetlink import NLM_F_ACK, Socket, attribute, attributes

# linux/rtnetlink.h, linux/if_link.h
RTM_GETLINK = 18
RTM_NEWNSID, RTM_GETNSID = 88, 90
NETNSA_NSID, NETNSA_FD = 1, 3
RTGENMSG = bytes(4)
"""``struct rtgenmsg``, padded."""
RTM_SETLINK = 19
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU = 1, 3, 4
IFLA_LINK, IFLA_LINK_NETNSID, IFLA_TARGET_NETNSID = 5, 37, 46
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
        port=0
        if any(data.get(IFLA_VXLAN_LEARNING, b""))
        else int.from_bytes(data.get(IFLA_VXLAN_PORT, b""), "big"),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=int.from_bytes(found.get(IFLA_MTU, b""), sys.byteorder),
        alias=found.get(IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="surrogateescape"),
        up=bool(flags & IFF_UP),
    )


def name_of(found: Mapping[int, bytes]) -> str:
    return found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="surrogateescape")


def _group(found: Mapping[int, bytes]) -> int:
    return int.from_bytes(found.get(IFLA_GROUP, b""), sys.byteorder)


class HostVeths(NamedTuple):
    """The host-side veths of a pod."""

    names: tuple[str, ...]
    named: bool = False
    """They are those that the CNI result names: the pod's network namespace cannot be seen from here, so there may be
    others."""


def host_veths(netns: str, names: Iterable[str]) -> HostVeths:
    """Return the veths of this network namespace whose peer is in the pod's, by the index of the peer.

    ``netns``: path of the pod's network namespace. What the CNI result names does not decide: a node's own interface
    may be a veth too, and a result may leave one out. ``names``, the interfaces that the result names outside of the
    pod, count only if the path leads nowhere from here: then the veths among them are returned.
    """
    with Socket() as kernel:
        try:
            # A path may lead to anything, and nothing here may wait for the other end of a pipe.
            pod = os.open(netns, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                number = _namespace_number(kernel, pod)
            finally:
                os.close(pod)
        except (OSError, ValueError):
            return HostVeths(tuple(name for name in names if _is_veth(_link(kernel, name))), named=True)
        found = (_peer(kernel, number, index, link) for index, link in _links_of(kernel, number))
        return HostVeths(tuple(name for name in found if name))


def _namespace_number(kernel: Socket, descriptor: int) -> int:
    """Return the number by which this network namespace knows the one of the descriptor. Raises OSError."""
    reference = attribute(NETNSA_FD, struct.pack("=I", descriptor))
    body = RTGENMSG + reference
    answer = attributes(kernel.request(RTM_GETNSID, 0, body)[len(RTGENMSG) :])
    number = int(struct.unpack("=i", answer[NETNSA_NSID])[0])
    if number < 0:
        # The kernel chooses one.
        kernel.request(RTM_NEWNSID, NLM_F_ACK, body + attribute(NETNSA_NSID, struct.pack("=i", -1)))
        answer = attributes(kernel.request(RTM_GETNSID, 0, body)[len(RTGENMSG) :])
        number = int(struct.unpack("=i", answer[NETNSA_NSID])[0])
    return number


def _links_of(kernel: Socket, number: int) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Yield index and attributes of the interfaces in the network namespace with this number."""
    wanted = attribute(IFLA_TARGET_NETNSID, struct.pack("=i", number))
    wanted += attribute(IFLA_EXT_MASK, struct.pack("=I", RTEXT_FILTER_SKIP_STATS))
    try:
        listed = kernel.dump(RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0) + wanted)
    except OSError as error:
        raise refused("listing the pod's interfaces", error.errno or errno.EIO) from error
    for _, body in listed:
        yield LINK.unpack_from(body)[2], attributes(body[LINK.size :])


def _peer(kernel: Socket, number: int, index: int, link: Mapping[int, bytes]) -> str:
    """Return the name of the veth here whose peer has this index in that namespace; empty if there is none."""
    if not _is_veth(link) or IFLA_LINK not in link:
        return ""
    try:
        answer = kernel.request(RTM_GETLINK, 0, LINK.pack(0, 0, *struct.unpack("=i", link[IFLA_LINK]), 0, 0))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return ""
        raise refused("looking at a pod's peer", error.errno or errno.EIO) from error
    found = attributes(answer[LINK.size :])
    # The index is of the namespace that the peer is in, which need not be this one: so the peer must say the same.
    back = found.get(IFLA_LINK), found.get(IFLA_LINK_NETNSID)
    return (
        name_of(found)
        if _is_veth(found) and back == (struct.pack("=i", index), struct.pack("=i", number))
        else ""
    )


def _is_veth(found: Mapping[int, bytes] | None) -> bool:
    if found is None:
        return False
    return attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b"").rstrip(b"\0") == b"veth"


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
