"""Answers and events of the kernel that no kernel sends: addresses, routes, rules, neighbours, connections, packets."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from cni.kernel.errors import KernelError
from cni.kernel.ids import MarkLayout
from cni.kernel.netlink import addresses, entries, links, monitor, routes
from cni.kernel.netlink.conntrack import ctnetlink
from cni.kernel.netlink.conntrack.connections import Connection
from cni.kernel.netlink.conntrack.ct_flows import flow
from cni.kernel.netlink.constants import (
    CTA_COUNTERS_BYTES,
    CTA_COUNTERS_ORIG,
    CTA_ID,
    CTA_IP_DST,
    CTA_IP_SRC,
    CTA_MARK,
    CTA_PROTO_DST_PORT,
    CTA_PROTO_NUM,
    CTA_PROTO_SRC_PORT,
    CTA_TUPLE_IP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
    FRA_PROTOCOL,
    IFA_LOCAL,
    IFA_PROTO,
    IPCTNL_MSG_CT_NEW,
    NDA_DST,
    NDA_LLADDR,
    NETCONFA_IFINDEX,
    NETCONFA_RP_FILTER,
    NFNL_SUBSYS_NFTABLES,
    NFT_MSG_NEWGEN,
    NFT_MSG_TRACE,
    NFTA_GEN_ID,
    NFTA_SET_ELEM_LIST_TABLE,
    NFTA_TRACE_TABLE,
    NFTA_TRACE_VERDICT,
    NFTA_VERDICT_CODE,
    NFULA_PAYLOAD,
    NFULNL_MSG_PACKET,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    RTA_DST,
    RTA_GATEWAY,
    RTA_MULTIPATH,
    RTA_OIF,
    RTA_PRIORITY,
    RTA_TABLE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWNETCONF,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    RTN_UNICAST,
)
from cni.kernel.netlink.messages import (
    IFADDRMSG,
    NDMSG,
    NFGENMSG,
    RTMSG,
    RTNEXTHOP,
    AddressHeader,
    Message,
    NeighbourHeader,
    NetfilterHeader,
    NextHopHeader,
    Request,
    RouteHeader,
    attribute,
    attributes,
    encode,
    nested,
)
from cni.kernel.netlink.netlink_socket import Socket
from cni.kernel.netlink.nflog import PacketLog
from cni.kernel.nftables import elements, generation, table_digest
from cni.plan import PlanEgressIP
from gateway_agent.adapters.kernel import interfaces, route_lookup
from gateway_agent.adapters.probes import answer_counters, nft_trace
from gateway_agent.adapters.probes.pod_packet import received
from gateway_agent.adapters.probes.tunnel_packet import number_in
from gateway_agent.connection_log.halves import Knowledge, half
from gateway_agent.lease_daemon.kernel import vip_addresses
from gateway_agent.policy.egress_node.exit_paths import Lookup

from .frames import LINK, some

ADDRESS = ip_address("10.1.0.5")
FOUR, SIX = socket.inet_aton("10.1.0.5"), socket.inet_pton(socket.AF_INET6, "fd00::5")
INDEX = struct.pack("=i", 1)
HOPS = b"".join(
    RTNEXTHOP.pack(NextHopHeader(16, 0, 0, index), attribute(RTA_GATEWAY, FOUR)) for index in (1, 2)
)
ENDS = [attribute(CTA_IP_SRC[4], FOUR), attribute(CTA_IP_DST[4], FOUR)]
TUPLE = (
    nested(CTA_TUPLE_IP, *ENDS),
    nested(
        CTA_TUPLE_PROTO,
        attribute(CTA_PROTO_NUM, bytes([socket.IPPROTO_UDP])),
        attribute(CTA_PROTO_SRC_PORT, b"\x12\x34"),
        attribute(CTA_PROTO_DST_PORT, b"\x01\xbb"),
    ),
)
CONNECTION = NFGENMSG.pack(
    NetfilterHeader(socket.AF_INET),
    nested(CTA_TUPLE_ORIG, *TUPLE),
    nested(CTA_TUPLE_REPLY, *TUPLE),
    attribute(CTA_MARK, b"\0\0\0\7"),
    attribute(CTA_ID, bytes(4)),
    attribute(CTA_ZONE, bytes(2)),
    nested(CTA_COUNTERS_ORIG, attribute(CTA_COUNTERS_BYTES, bytes(8))),
)
VERDICT = nested(NFTA_TRACE_VERDICT, attribute(NFTA_VERDICT_CODE, bytes(4)))
EGRESS = PlanEgressIP("a" * 16, "partner", "10.1.0.5", 1, 1, ("x",), "x")
KNOWLEDGE = Knowledge("x", MarkLayout(0x0FF00000), {1: EGRESS})
LOOKUP = Lookup("203.0.113.1", "10.1.0.5", "lo", 7)
BODIES = {
    RTM_NEWLINK: LINK,
    RTM_NEWADDR: IFADDRMSG.pack(
        AddressHeader(socket.AF_INET, 32, interface=1), attribute(IFA_LOCAL, FOUR), attribute(IFA_PROTO, b"\xe9")
    ),
    RTM_NEWROUTE: RTMSG.pack(
        RouteHeader(socket.AF_INET6, 128, kind=RTN_UNICAST), attribute(RTA_DST, SIX), attribute(RTA_OIF, INDEX),
        attribute(RTA_GATEWAY, SIX), attribute(RTA_PRIORITY, bytes(4)), attribute(RTA_TABLE, INDEX),
        attribute(RTA_MULTIPATH, HOPS),
    ),
    RTM_NEWRULE: RTMSG.pack(RouteHeader(socket.AF_INET), attribute(FRA_PROTOCOL, b"\xe9")),
    RTM_NEWNETCONF: bytes(4) + attribute(NETCONFA_IFINDEX, INDEX) + attribute(NETCONFA_RP_FILTER, INDEX),
    RTM_NEWNEIGH: NDMSG.pack(
        NeighbourHeader(socket.AF_INET, 1, 2), attribute(NDA_DST, FOUR), attribute(NDA_LLADDR, bytes(6))
    ),
    NFULNL_MSG_PACKET: NFGENMSG.pack(NetfilterHeader(socket.AF_INET), attribute(NFULA_PAYLOAD, bytes(60))),
    NFT_MSG_TRACE: NFGENMSG.pack(NetfilterHeader(1), attribute(NFTA_TRACE_TABLE, b"x\0"), VERDICT),
    NFT_MSG_NEWGEN: NFGENMSG.pack(NetfilterHeader(), attribute(NFTA_GEN_ID, bytes(4))),
    NFNL_SUBSYS_NFTABLES << 8: NFGENMSG.pack(NetfilterHeader(1), attribute(NFTA_SET_ELEM_LIST_TABLE, b"x\0")),
    IPCTNL_MSG_CT_NEW: CONNECTION,
}  # fmt: skip
"""Bodies by message type."""


class Answers(Socket):
    """A netlink socket whose other end is no kernel. What it does not answer is BlockingIOError, at once."""

    def __init__(self, datagrams: Iterable[bytes]) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sequence, self._other = 0, other
        self._socket.setblocking(False)
        for datagram in filter(None, datagrams):
            other.send(datagram)

    def close(self) -> None:
        super().close()
        self._other.close()


class Logged(Answers, PacketLog):
    """A packet log whose other end is no kernel."""


class Committed(Answers, elements.TransactionSocket):
    """A socket for transactions whose other end is no kernel."""


def once(rng: random.Random) -> None:
    """Try one random message at every reader of its kind, as an event, as an answer and in a listing."""
    kind = rng.choice(list(BODIES))
    body = some(BODIES[kind], rng)
    check_event(Message(rng.choice([kind, kind + 1]), 0, 0, body))
    check_answers(answers(kind, body, rng))


def answers(kind: int, body: bytes, rng: random.Random) -> list[bytes]:
    """Return what answers three requests: messages, and an end that may be none or say anything."""
    found = []
    for number in (1, 2, 3):
        flags = rng.choice([0, 0, 0, NLM_F_DUMP_INTR])
        listed = encode(Request(kind, flags, body), 0, number) * rng.randint(0, 3)
        end = rng.choice(
            [bytes(4), bytes(4), some(bytes(4), rng), struct.pack("=i", -rng.choice([1, 2, 19]))]
        )
        done = encode(Request(rng.choice([NLMSG_DONE, NLMSG_DONE, NLMSG_ERROR, kind]), 0, end), 0, number)
        found.append((some(listed, rng) if rng.random() < 0.3 else listed) + done)
    return found


def check_event(message: Message) -> None:
    """Read a message that no request has asked for."""
    for parse in (monitor._route_event, monitor._table_event):
        event = parse(message)
        assert event is None or isinstance(event, monitor.Event)
    with contextlib.suppress(OSError):
        step = nft_trace._step(message)
        assert step is None or step.handle >= 0
    log = Logged([encode(Request(message.kind, 0, message.body), 0, 0)])
    with log:
        assert all(-1 <= number_in(packet) <= 0xFFFF for packet in log.packets())
    found = RTMSG.attributes(message.body)
    for hop in routes._of_route(6, message.body[1] if len(message.body) > 1 else 0, found):
        assert hop.prefix >= 0
    check_connection(message.body)
    check_flow(message.body)


def check_flow(body: bytes) -> None:
    """Read a connection as the connection log does, and the same bytes as an answer to a probe."""
    found = flow(body)
    if found is not None:
        assert min(found.mark, found.identity, found.bytes_out + 1, found.bytes_in + 1) >= 0
        half(KNOWLEDGE, found, EGRESS)
    answer = received(body)
    assert answer is None or 0 <= answer.port <= 0xFFFF


def check_connection(body: bytes) -> None:
    """Read a connection as it is listed."""
    with contextlib.suppress(OSError):
        connection = Connection(body)
        for direction in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY):
            assert len(connection.source(direction)) in (0, 4, 16)
            assert len(connection.destination(direction)) in (0, 4, 16)
        assert min(connection.protocol, connection.tcp_state, connection.mark, connection.zone) >= 0
        assert not connection.key or attributes(connection.key).keys() == {CTA_TUPLE_ORIG}
        list(ctnetlink._liberal_tcp([connection]))


def check_answers(datagrams: list[bytes]) -> None:
    """Give these answers to everything that asks the kernel."""
    readers: list[Callable[[Socket], object]] = [
        lambda kernel: kernel.dump(RTM_NEWADDR, b""),
        lambda kernel: kernel.request(RTM_NEWADDR, 0, b""),
        lambda kernel: list(addresses.observe(kernel)),
        lambda kernel: list(addresses.observe(kernel, ["10.1.0.5"], 1)),
        lambda kernel: list(routes.listed(kernel, 6)),
        lambda kernel: list(entries.listed(kernel, socket.AF_BRIDGE, {1: "lo"})),
        lambda kernel: routes.lookup(kernel, "10.1.0.5"),
        lambda kernel: interfaces._leaving_by(kernel, "10.1.0.5"),
        lambda kernel: route_lookup._ask(kernel, LOOKUP, 1),
        lambda kernel: vip_addresses._routed(kernel),
        lambda kernel: ctnetlink._delete_of(kernel, ADDRESS),
        lambda kernel: ctnetlink._delete_opened(kernel, {ADDRESS: lambda remote: bool(ip_address(remote))}),
        lambda kernel: list(ctnetlink._open_connections(kernel, [ADDRESS])),
        lambda kernel: list(ctnetlink._liberal_tcp(ctnetlink._shown(kernel, ADDRESS, 1))),
        lambda kernel: list(links._links_of(kernel, 0)),
        lambda kernel: links._namespace_number(kernel, 0),
        lambda kernel: links._link(kernel, "x"),
        lambda kernel: generation._current(kernel),
        lambda kernel: answer_counters.packets(kernel, "x", "y"),
        lambda kernel: table_digest._read(kernel, 1, "x", b"y"),
    ]
    for read in readers:
        # Each says which of these it raises: a caller that has no answer is told so.
        with Answers(datagrams) as kernel, contextlib.suppress(KernelError, OSError):
            read(kernel)
    committed = Committed(datagrams)
    with committed, contextlib.suppress(OSError):
        assert committed.commit([Request(0, 0, b"")])
