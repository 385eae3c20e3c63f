"""Interfaces and the tags of pods, without pyroute2: this runs at each pod start, and a node may have many interfaces.

All functions raise :class:`~cni.kernel.errors.KernelError`.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from .. import ids
from ..errors import refused
from ..state import Vxlan
from . import messages
from .constants import (
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_BAREUDP_PORT,
    IFLA_EXT_MASK,
    IFLA_GENEVE_PORT,
    IFLA_GROUP,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINK_NETNSID,
    IFLA_LINKINFO,
    IFLA_MTU,
    IFLA_TARGET_NETNSID,
    IFLA_VXLAN_ID,
    IFLA_VXLAN_LEARNING,
    IFLA_VXLAN_LOCAL,
    IFLA_VXLAN_LOCAL6,
    IFLA_VXLAN_PORT,
    IFNAMSIZ,
    NETNSA_FD,
    NETNSA_NSID,
    NLM_F_ACK,
    RTEXT_FILTER_SKIP_STATS,
    RTM_GETLINK,
    RTM_GETNSID,
    RTM_NEWNSID,
    RTM_SETLINK,
)
from .messages import IFINFOMSG, RTGENMSG, LinkHeader, attribute, attributes, decoded
from .netlink_socket import Socket

ANY_LINK = LinkHeader()
WITHOUT_STATISTICS = attribute(IFLA_EXT_MASK, struct.pack("=I", RTEXT_FILTER_SKIP_STATS))


def listed(kind: str = "") -> Iterator[tuple[int, int, dict[int, bytes]]]:
    """Yield index, flags and attributes of every interface, without its statistics.

    With ``kind`` only of interfaces of this kind, unless the kernel does not know that kind.
    """
    body = IFINFOMSG.pack(ANY_LINK, WITHOUT_STATISTICS)
    if kind:
        body += attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode()))
    try:
        with Socket() as kernel:
            found = [(IFINFOMSG.read(m.body), m.body) for m in kernel.dump(RTM_GETLINK, body)]
    except OSError as error:
        raise refused("listing the interfaces", error.errno or errno.EIO) from error
    for header, link in found:
        yield header.interface, header.flags, IFINFOMSG.attributes(link)


def tagged() -> dict[str, int]:
    """Return the group of every interface whose group is one of ours, by name."""
    groups = {name_of(found): _group(found) for _, _, found in listed()}
    return {name: group for name, group in groups.items() if ids.is_own_group(group)}


def unjudged() -> tuple[str, ...]:
    """Return the veths in group 0 whose peer is in another network namespace, sorted by name."""
    found = (link for _, _, link in listed("veth") if _is_veth(link) and IFLA_LINK_NETNSID in link)
    return tuple(sorted(name_of(link) for link in found if not _group(link)))


def vxlans() -> Iterator[tuple[int, Vxlan]]:
    """Yield every VXLAN device with its index."""
    for index, flags, found in listed("vxlan"):
        # A kernel that has not loaded its module lists all interfaces.
        device = vxlan_of(flags, found)
        if device is not None:
            yield index, device


UDP_PORTS = {"vxlan": IFLA_VXLAN_PORT, "geneve": IFLA_GENEVE_PORT, "bareudp": IFLA_BAREUDP_PORT}
"""Kinds of devices that take packets at a UDP port, with the attribute that has the port."""


def udp_ports(kind: str) -> Iterator[tuple[str, int, str]]:
    """Yield name, UDP port and local address of each interface of a kind of :data:`UDP_PORTS`.

    The address is empty if the device takes packets at every address of the node.
    """
    for _, _, found in listed(kind):
        info = attributes(found.get(IFLA_LINKINFO, b""))
        if decoded(info.get(IFLA_INFO_KIND, b"")) != kind:
            continue
        data = attributes(info.get(IFLA_INFO_DATA, b""))
        local = b""
        if kind == "vxlan":
            local = data.get(IFLA_VXLAN_LOCAL) or data.get(IFLA_VXLAN_LOCAL6) or b""
        yield name_of(found), int.from_bytes(data.get(UDP_PORTS[kind], b""), "big"), messages.address(local)


def vxlan_of(flags: int, found: Mapping[int, bytes]) -> Vxlan | None:
    """Return the VXLAN device that :func:`listed` describes; None for an interface of another kind."""
    info = attributes(found.get(IFLA_LINKINFO, b""))
    if decoded(info.get(IFLA_INFO_KIND, b"")) != "vxlan":
        return None
    data = attributes(info.get(IFLA_INFO_DATA, b""))
    # A device that learns is not ours, whatever its name: it is made anew, like one with another port.
    learns = any(data.get(IFLA_VXLAN_LEARNING, b""))
    return Vxlan(
        name=name_of(found),
        vni=int.from_bytes(data.get(IFLA_VXLAN_ID, b""), sys.byteorder),
        local=messages.address(data.get(IFLA_VXLAN_LOCAL) or data.get(IFLA_VXLAN_LOCAL6) or b""),
        port=0 if learns else int.from_bytes(data.get(IFLA_VXLAN_PORT, b""), "big"),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=int.from_bytes(found.get(IFLA_MTU, b""), sys.byteorder),
        alias=decoded(found.get(IFLA_IFALIAS, b""), "surrogateescape"),
        up=bool(flags & IFF_UP),
    )


def name_of(found: Mapping[int, bytes]) -> str:
    """Return the name of an interface by its attributes; undecodable bytes are surrogates."""
    return decoded(found.get(IFLA_IFNAME, b""), "surrogateescape")


def _group(found: Mapping[int, bytes]) -> int:
    return int.from_bytes(found.get(IFLA_GROUP, b""), sys.byteorder)


class HostVeths(NamedTuple):
    """The host-side veths of a pod."""

    names: tuple[str, ...]
    named: bool = False
    """True if the names are those in the CNI result: the pod's network namespace cannot be seen from here, so there
    may be others.
    """


def host_veths(netns: str, names: Iterable[str]) -> HostVeths:
    """Return the veths of this network namespace whose peer is in the pod's, by the index of the peer.

    ``netns``: path of the pod's network namespace. The names in the CNI result do not decide: a node's own interface
    may be a veth too, and a result may omit a veth. ``names``, the interfaces that the result names outside of the
    pod, count only if the path cannot be opened from here: then the veths among them are returned.
    """
    with Socket() as kernel:
        try:
            # The path may lead to any file, and this function must not wait for the other end of a pipe.
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
    body = RTGENMSG + attribute(NETNSA_FD, struct.pack("=I", descriptor))

    def number() -> int:
        answer = attributes(kernel.request(RTM_GETNSID, 0, body)[len(RTGENMSG) :])
        return messages.signed(answer.get(NETNSA_NSID, b""))

    known = number()
    if known < 0:
        # The kernel chooses one.
        kernel.request(RTM_NEWNSID, NLM_F_ACK, body + attribute(NETNSA_NSID, struct.pack("=i", -1)))
        known = number()
    return known


def _links_of(kernel: Socket, number: int) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Yield index and attributes of the interfaces in the network namespace with this number."""
    target = attribute(IFLA_TARGET_NETNSID, struct.pack("=i", number))
    try:
        answers = kernel.dump(RTM_GETLINK, IFINFOMSG.pack(ANY_LINK, target, WITHOUT_STATISTICS))
        found = [(IFINFOMSG.read(message.body), message.body) for message in answers]
    except OSError as error:
        raise refused("listing the pod's interfaces", error.errno or errno.EIO) from error
    for header, link in found:
        yield header.interface, IFINFOMSG.attributes(link)


def _peer(kernel: Socket, number: int, index: int, link: Mapping[int, bytes]) -> str:
    """Return the name of the veth here whose peer has this index in that namespace; empty if there is none."""
    if not _is_veth(link) or IFLA_LINK not in link:
        return ""
    try:
        peer = LinkHeader(interface=messages.signed(link[IFLA_LINK]))
        answer = kernel.request(RTM_GETLINK, 0, IFINFOMSG.pack(peer))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return ""
        raise refused("looking at a pod's peer", error.errno or errno.EIO) from error
    found = IFINFOMSG.attributes(answer)
    # The index belongs to the namespace of the peer, which may be another one: so the peer must name this index.
    back = found.get(IFLA_LINK), found.get(IFLA_LINK_NETNSID)
    is_mutual = back == (struct.pack("=i", index), struct.pack("=i", number))
    return name_of(found) if _is_veth(found) and is_mutual else ""


def _is_veth(found: Mapping[int, bytes] | None) -> bool:
    if found is None:
        return False
    return decoded(attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b"")) == "veth"


def tag_of(device: str) -> int | None:
    """Return the group of an interface; None if it does not exist."""
    with Socket() as kernel:
        found = _link(kernel, device)
    return None if found is None else _group(found)


def tag(device: str, group: int) -> None:
    """Put an interface into an interface group; 0 is the kernel's default group."""
    wanted = attribute(IFLA_GROUP, struct.pack("=I", group))
    try:
        with Socket() as kernel:
            # By name: after a look-up of the index, the index could belong to another interface.
            body = IFINFOMSG.pack(ANY_LINK, messages.text(IFLA_IFNAME, device), wanted)
            kernel.request(RTM_SETLINK, NLM_F_ACK, body)
    except OSError as error:
        raise refused(f"tagging {device}", _code(error, device)) from error


def _link(kernel: Socket, device: str) -> dict[int, bytes] | None:
    try:
        body = IFINFOMSG.pack(ANY_LINK, messages.text(IFLA_IFNAME, device))
        return IFINFOMSG.attributes(kernel.request(RTM_GETLINK, 0, body))
    except OSError as error:
        code = _code(error, device)
        if code == errno.ENODEV:
            return None
        raise refused(f"looking at {device}", code) from error


def _code(error: OSError, device: str) -> int:
    """Return the error's number; ENODEV for an impossible interface name, which the kernel calls malformed."""
    return errno.ENODEV if not 0 < len(device) < IFNAMSIZ else error.errno or errno.EIO
