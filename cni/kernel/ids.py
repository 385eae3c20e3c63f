"""Our names, numbers and ranges in the kernel, all of them.

Only objects that are described here are ever changed or deleted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

DEVICE_PREFIX = "egw-"
"""VXLAN devices are named ``egw-<vni in hex>``: 10 characters of the 15 that the kernel allows."""
RETURN_DEVICE = "egw-back"
"""Device that carries the answers of all egress IPs back to the workers."""
RETURN_VNI = 0xE96BAC
UNJUDGED = 0x20000000
"""The bit of a packet's priority that tells the routing hooks that the packet came by a bridge's port in group 0."""
ENCAPSULATED = 0x40000000
"""The bit of a packet's priority that marks the kernel's own encapsulation until the packet leaves. Without
``CAP_NET_ADMIN`` or ``CAP_NET_RAW`` a socket has priorities 0 to 6 (socket(7), ``SO_PRIORITY``)."""

SYNC_DEVICE = "egw-sync"
"""Device that carries the connection tables between egress nodes: each packet that enters it goes to each partner."""
SYNC_VNI = 0xE96B5C
SYNC_ADDRESS = "169.254.233.3"
"""Address of the sync device, on every node the same: no route leads to it."""
SYNC_GROUP = "239.233.0.1"
"""Multicast address (organization-local, RFC 2365); it never leaves the device."""
SYNC_PORT = 3780
"""UDP port of the synchronization; the usual one of conntrackd."""
FLOOD_MAC = "00:00:00:00:00:00"
"""MAC of a forwarding entry for all frames that no other entry names, multicast among them: they go to all such
destinations.
"""

TABLE_BASE = 7000
"""Routing table of slot N is ``TABLE_BASE + N``; ``TABLE_BASE`` itself leads into ``egw-back``."""
EXIT_TABLE_BASE = 2_000_000_000
"""Routing table of packets that leave by slot N is ``EXIT_TABLE_BASE + N``, if the gateway has its own routing."""
RULE_PRIORITY_BASE = 900
"""``ip rule`` priority of slot N is ``RULE_PRIORITY_BASE + N``; after ``local``, before ``main``."""
FOREIGN_TABLE_PRIORITY = 899
"""``ip rule`` priority of another program's table that a gateway names: before the rules of our tables."""
ANSWER_PRIORITY = 898
"""``ip rule`` priority of answers that come by a gateway's own routing: before the rules of leaving packets."""
PROTOCOL = 233
"""Our own number in the ``protocol`` field of routes and rules (``/etc/iproute2/rt_protos`` leaves it free)."""
ADDRESS_PROTOCOL = 233
"""Our own number in the ``protocol`` field of addresses: it identifies a virtual address as ours (Linux 5.18)."""
UNREACHABLE_METRIC = 4278198272
"""Metric of the ``unreachable`` default below a tunnel's default route."""

GROUP_BASE = 0x45470000
"""Interface group of policy set N is ``GROUP_BASE + N``; the low 16 bits are the set's number."""
GROUP_BLOCKED = GROUP_BASE + 0xFFFF
"""Group of a selected interface without a policy set: none of its packets pass. The same applies to every group of our
range that belongs to no set."""

GROUP_UNSELECTED = 0x45460000
"""Group of a pod's interface if no policy selects the pod. Group 0, the kernel's default, means that neither the plugin
nor the agent knows the interface."""

NEXT_HOP = "169.254.233.2"
"""The next hop of every egress IP's table. Its neighbour entry on ``egw-*`` *is* the current master."""
NEXT_HOP6 = "fe80::e9:2"
"""The next hop of egress IPs of family 6."""
NEXT_HOPS = {4: NEXT_HOP, 6: NEXT_HOP6}
DEVICE_ADDRESS = "169.254.233.1"
"""Address of each of our devices, /32: loose ``rp_filter`` drops packets that arrive on a device without an address."""

NFT_NODE_INET = "egress_gateway"
NFT_NODE_BRIDGE = "egress_gateway"
NFT_GATEWAY = "egress_gateway_snat"
NFT_FENCE = "egress_gateway_fence"
NFT_GUARD = "egress_gateway_guard"
"""Table that drops packets to the outside of pods that neither plugin nor agent knows."""
NFT_TRACE = "egress_gateway_trace"
"""Table that exists only while the agent searches for the rule that drops its probe."""
FENCE_TICKETS = "tickets"
FENCE_OPEN4 = "open4"
FENCE_OPEN6 = "open6"
"""The fence's sets: the lease daemon adds and removes their elements with each heartbeat. The agent makes the sets and
the daemon fills them. During an update the two may have different versions, so these names do not change."""

STALE_GROUP = 0xE96B
"""Number of the packet log (nfnetlink_log) that reports connections with the mark :attr:`MarkLayout.stale`."""

PROBE_GROUP = 0xE96C
"""Number of the packet log that reports probes of a node's own path (:mod:`cni.datapath.path_proof`)."""
PROBE_NUMBERS = 0x65677750726F6265
"""Sequence and acknowledgement number of a probe, a TCP packet that opens a connection: in others the second is 0."""

TEST_DEVICE, TEST_PEER = "egwtest", "egwtesp"
"""Names, before a number, of the two ends of the veths of ``egressctl test``, which represent pods. Without
:data:`DEVICE_PREFIX`: packets by an interface with that prefix count as packets out of a tunnel."""
TEST4, TEST6 = "169.254.233.{}", "fde2:8fff:671d:eb::{:x}"
"""Addresses of these pods, from :data:`TEST_FIRST` on."""
TEST_FIRST = 16

INNER6, SYNCED6 = "fde2:8fff:671d:e9", "fde2:8fff:671d:ea"
"""Networks (/64, RFC 4193) of the IPv6 addresses that nodes have inside the tunnels, and nowhere else."""
INNER4, SYNCED4 = 0xF0000000, 0xF8000000
"""Networks (/5, in 240.0.0.0/4 of RFC 1112) of IPv4 addresses inside the tunnels, and nowhere else."""

VXLAN_OVERHEAD = {4: 50, 6: 70}
"""Bytes that VXLAN adds, by underlay family (RFC 7348, section 5)."""
IPV6_MIN_MTU = 1280
"""Smallest MTU in bytes with which the kernel has IPv6 on a device at all (RFC 8200, section 5)."""


def egress_id(gateway: str, address: str) -> str:
    """Return the identity of an egress IP: 16 hex digits of a hash. ``address`` is empty in basic mode."""
    return hashlib.sha256(f"{gateway}\0{address}".encode()).hexdigest()[:16]


def interface_group(group: int) -> int:
    """Return the interface group for a tag; tag 0 means that no policy selects the pod."""
    return group or GROUP_UNSELECTED


def is_own_group(group: int) -> bool:
    """Return True if the plugin or the agent has set this interface group."""
    return GROUP_BASE <= group <= GROUP_BLOCKED or group == GROUP_UNSELECTED


def is_own_table(table: int) -> bool:
    """Return True if a routing table may be one of ours: slots are numbered up to some billion."""
    return TABLE_BASE <= table < TABLE_BASE + 0x10000 or table >= EXIT_TABLE_BASE


def vni(identity: str) -> int:
    """Return the VXLAN network identifier (24 bits, never 0) of the egress IP with this :func:`egress_id`."""
    return int(identity[:6], 16) or 1


def device(vni_number: int) -> str:
    """Return the name of the VXLAN device of one egress IP."""
    return f"{DEVICE_PREFIX}{vni_number:06x}"


def node_mac(address: str) -> str:
    """Return the MAC of a node's ``egw-*`` devices: unique per node, derived from its tunnel address.

    Locally administered (bit 1 of the first octet). IPv4: the address itself; IPv6: 32 bits of its hash.
    """
    if ":" in address:
        tail = hashlib.sha256(address.encode()).digest()[:4]
    else:
        tail = bytes(int(octet) for octet in address.split("."))
    return "02:e9:" + ":".join(f"{octet:02x}" for octet in tail)


def inner(address: str, family: int, synced: bool = False) -> str:
    """Return the source of packets that the node with this tunnel address sends into a tunnel: it routes the replies.

    ``family`` (4 or 6) is of the packet inside; ``synced``: the packet goes to an egress IP whose connections are
    synced, which this source distinguishes. The IPv4 source is the node's own IPv4 address if it has one; if synced, 27
    bits of it; else 27 bits of a hash, never broadcast. The IPv6 source is always 64 bits of a hash: nodes need no
    IPv6 address.
    """
    digest = hashlib.sha256(f"inner {address}".encode()).digest()
    if family == 6:
        groups = (int.from_bytes(digest[place : place + 2], "big") for place in (0, 2, 4, 6))
        # Without zeros an address has one form only: addresses of the kernel are compared as text.
        return f"{SYNCED6 if synced else INNER6}:" + ":".join(f"{group or 1:x}" for group in groups)
    if ":" in address:
        host = int.from_bytes(digest[:4], "big")
    elif synced:
        host = int.from_bytes(bytes(int(octet) for octet in address.split(".")), "big")
    else:
        return address
    number = (SYNCED4 if synced else INNER4) + (host & 0x07FFFFFF) % 0x07FFFFFF
    return ".".join(str(octet) for octet in number.to_bytes(4, "big"))


@dataclass(frozen=True)
class MarkLayout:
    """The use of our bits of the packet mark and of the connection mark.

    ``mask`` is one run of at least 4 set bits. In a connection mark its highest bit says *came out of a tunnel*, in a
    packet mark *leaves by its gateway's own routing*; the others hold a slot or ``reply``. Between the bridge and the
    inet table all bits together hold a policy set. No other program marks a connection out of a tunnel: if the mask has
    too few numbers for the tunnels, the mark of such a connection has bits outside of the mask, too.
    """

    mask: int

    def __post_init__(self) -> None:
        low = self.mask & -self.mask
        run = self.mask // low if low else 0
        if not 0 < self.mask <= 0xFFFFFFFF or run & (run + 1) or run.bit_length() < 4:
            raise ValueError(f"mark mask {self.mask:#x}: need 4 or more adjacent bits of 32")

    @property
    def shift(self) -> int:
        """Position of the mask's lowest bit."""
        return (self.mask & -self.mask).bit_length() - 1

    @property
    def tunneled(self) -> int:
        """The connection came out of a tunnel: its answers go back into one."""
        return 1 << (self.mask.bit_length() - 1)

    @property
    def numbers(self) -> int:
        """Slots are numbered 1 to this."""
        return (self.mask >> self.shift >> 1) - 1

    @property
    def sets(self) -> int:
        """Policy sets are numbered 1 to this."""
        return min(self.mask >> self.shift, GROUP_BLOCKED - GROUP_BASE - 1)

    @property
    def inlets(self) -> int:
        """Tunnels whose packets this node takes in are numbered 1 to this."""
        return self.numbers << (32 - bin(self.mask).count("1"))

    @property
    def reply(self) -> int:
        """Mark of a reply that returns to a worker."""
        return (self.numbers + 1) << self.shift

    @property
    def stale(self) -> int:
        """The connection came out of a tunnel and cannot continue with its address: the agent deletes it."""
        return self.tunneled | self.reply

    def policy_set(self, value: int) -> int:
        """Return the mark of policy set ``value`` (1 to :attr:`sets`). Raises :class:`ValueError` for another one."""
        if not 1 <= value <= self.sets:
            raise ValueError(
                f"{value} is not in 1..{self.sets}, the policy sets that mark mask {self.mask:#x} holds"
            )
        return value << self.shift

    def taken_in(self, value: int) -> int:
        """Return the mark of connections out of tunnel ``value`` (1 to :attr:`inlets`).

        Its bits in the mask are never 0 or ``stale``. Raises :class:`ValueError` for another number.
        """
        if not 1 <= value <= self.inlets:
            raise ValueError(f"{value} is not in 1..{self.inlets}, the tunnels that a connection mark holds")
        outside, inside = divmod(value - 1, self.numbers)
        return self.tunneled | self.number(inside + 1) | self._outside(outside)

    def wide(self, highest: int) -> int:
        """Return the bits in which the marks of the tunnels 1 to ``highest`` differ, with those of the mask."""
        outside = max(highest - 1, 0) // self.numbers
        return self.mask | self._outside((1 << outside.bit_length()) - 1)

    def _outside(self, value: int) -> int:
        """Return ``value`` spread over the bits outside of the mask, from the lowest one on."""
        return value & ((1 << self.shift) - 1) | value >> self.shift << self.mask.bit_length()

    def leaving(self, value: int) -> int:
        """Return the mark of a packet out of slot ``value`` whose gateway has its own routing."""
        return self.tunneled | self.number(value)

    def number(self, value: int) -> int:
        """Return the mark that carries ``value`` (1 to :attr:`numbers`). Raises :class:`ValueError` for another one."""
        if not 1 <= value <= self.numbers:
            raise ValueError(
                f"{value} is not in 1..{self.numbers}, the numbers that mark mask {self.mask:#x} holds"
            )
        return value << self.shift
