"""A small lab for the data path alone: machines, pods made by hand, and plans as data. No agent, no election.

::

    outside 203.0.113.1, .7, .129 ── bridge br-u, 10.0.0.254 ─── eth0 of every node (10.0.0.0/24)
                                  └─ bridge br-e, 172.16.0.254 ── eth1 of the egress nodes (172.16.0.0/24)

All have IPv6 addresses too (:func:`v6`); the service's is 2001:db8::1.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cni.datapath import reconcile as datapath
from cni.kernel import ids
from cni.kernel.netlink import links
from cni.kernel.netlink.neighbours import Neighbours
from cni.kernel.nftables import nft
from cni.plan import Destination, Plan, PlanEgressIP, PlanNode, PolicySet
from gateway_agent.gateway_rules.snat import gateway_nft
from gateway_agent.policy import keeper_config
from tests.lab import vxlan
from tests.lab.bridge import bridge
from tests.lab.capture import Capture
from tests.lab.namespace import Namespace
from tests.lab.packets import send

from .datapath_traffic import PORT, Conversation, Datagrams, Witness, family_of

PREFIX = "egwdp-"
KEEPER_PORT = 7947
MASK = 0x0FF00000
SERVICE = "203.0.113.1"
EXCLUDED = "203.0.113.7"
SERVICE6 = "2001:db8::1"
OTHER_SERVICE = "203.0.113.129"
"""Address of a service behind the second gateway."""
NODES = {"w1": "10.0.0.11", "w2": "10.0.0.12", "g1": "10.0.0.1", "g2": "10.0.0.2"}
SOURCES = {"g1": "172.16.0.7", "g2": "172.16.0.8"}
MTU = 1450
TAG, OTHER_TAG = 1, 2
FIRST, SECOND = ids.egress_id("partner", ""), ids.egress_id("other", "")
VIRTUAL, VIRTUAL6 = "172.16.0.50", "fd00:172::50"
"""Virtual addresses that no machine has as its own, and that a plan of :func:`plan` does not serve."""
DESTINATIONS = (
    Destination("203.0.113.0/30", FIRST),
    Destination("203.0.113.4/31", FIRST),
    Destination("203.0.113.6/32", FIRST),
    Destination("203.0.113.8/29", FIRST),
    Destination("203.0.113.128/25", SECOND),
    Destination("2001:db8::/32", FIRST),
)
"""203.0.113.0/28 through the first gateway, without 203.0.113.7; 203.0.113.128/25 through the second."""


def v6(address: str) -> str:
    """Return an IPv6 address with the same last number.

    Pods have fd00:244::… and fd00:245::…, nodes fd00:10::… and fd00:172::….
    """
    first, second, _, last = address.split(".")
    return f"fd00:{second if second in ('244', '245') else first}::{last}"


RESERVED_SOURCES = tuple(
    sorted({VIRTUAL, VIRTUAL6, *(a for own in (*NODES.values(), *SOURCES.values()) for a in (own, v6(own)))})
)
EGRESS_SOURCES = tuple(sorted({VIRTUAL, VIRTUAL6, *SOURCES.values()}))


def plan(node: str, first: str = "g1", second: str = "g2", **changes: object) -> Plan:
    """Return the plan of a node where these nodes are masters; ``direct`` is of the first gateway."""
    direct = bool(changes.pop("direct", False))
    source = SOURCES.get(node, "")
    egress_ips = tuple(
        PlanEgressIP(
            id=identity,
            gateway=gateway,
            address="",
            slot=slot,
            vni=ids.vni(identity),
            eligible=("g1", "g2"),
            master=master,
            direct=direct and slot == 1,
            interface="eth1" if source else "",
            source=source,
        )
        for slot, (identity, gateway, master) in enumerate(
            ((FIRST, "partner", first), (SECOND, "other", second)), 1
        )
    )
    sets = (
        PolicySet(TAG, ("a", "b"), (FIRST, SECOND), DESTINATIONS),
        PolicySet(OTHER_TAG, ("c",), (SECOND,), (Destination("203.0.113.0/28", SECOND),)),
    )
    nodes = tuple(PlanNode(name, address) for name, address in sorted(NODES.items()))
    uplinks = ("eth0", "eth1") if source else ("eth0",)
    planned = Plan(
        node,
        MASK,
        4799,
        MTU,
        nodes,
        egress_ips,
        (),
        sets,
        uplinks=uplinks,
        reserved_sources=RESERVED_SOURCES,
        egress_sources=EGRESS_SOURCES,
        node_links=("eth0",),
        cluster_port=KEEPER_PORT,
        sets_port=KEEPER_PORT,
    )
    return replace(planned, **changes)  # type: ignore[arg-type]


class Pod:
    """A namespace behind a veth. ``host`` is the name of the veth's end on the node."""

    def __init__(self, node: Node, name: str, address: str, routed: bool = False) -> None:
        self.node, self.address, self.routed = node, address, routed
        self.host = f"veth{name}"
        self.machine = Namespace(f"{node.machine.name}-{name}")
        self.machine.create()
        node.machine.ip(f"link add {self.host} type veth peer name eth0 netns {self.machine.name}")
        if routed:
            node.machine.ip(
                f"link set {self.host} up",
                f"address add 10.245.0.1/32 dev {self.host}",
                f"address add fe80::1/64 dev {self.host} nodad",
                f"route add {address}/32 dev {self.host}",
                f"route add {v6(address)}/128 dev {self.host}",
            )
            gateway, gateway6 = "10.245.0.1", "fe80::1"
        else:
            node.machine.ip(f"link set {self.host} master cbr0 up")
            gateway, gateway6 = "10.244.0.1", "fd00:244::1"
        self.machine.ip(
            f"address add {address}/24 dev eth0",
            f"address add {v6(address)}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {gateway}",
            f"route add default via {gateway6} dev eth0",
        )

    def tag(self, number: int) -> None:
        group = ids.GROUP_BASE + number if number else 0
        self.node.machine.inside(lambda: links.tag(self.host, group))

    def connect(self, address: str = SERVICE, port: int = 0, seconds: float = 2.0) -> Conversation:
        """Return an open TCP connection; ``port`` is the pod's own, 0: any."""
        sock = self.machine.socket(family_of(address), socket.SOCK_STREAM)
        sock.settimeout(seconds)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("", port))
            sock.connect((address, PORT))
            return Conversation(sock)
        except BaseException:
            sock.close()
            raise

    def seen_as(self, address: str = SERVICE) -> str:
        """Return the client address that the service sees in a new TCP connection."""
        with self.connect(address) as conversation:
            return conversation.seen_as

    def datagrams(self, service: str = SERVICE) -> Datagrams:
        return Datagrams(self.machine.socket(family_of(service), socket.SOCK_DGRAM), service)


class Node:
    """A node with a bridge network and room for routed pods, and a CNI's masquerade."""

    def __init__(self, name: str, outside: Namespace) -> None:
        self.name, self.address = name, NODES[name]
        self.machine = Namespace(f"{PREFIX}{name}")
        settings = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
        # The kernel asks for no neighbour as long as its own link-local address may be a duplicate.
        self.machine.create({**settings, "net/ipv6/conf/default/accept_dad": "0"})
        self._wire(outside, "eth0", "br-u", f"{self.address}/24")
        self.machine.ip(f"address add {v6(self.address)}/64 dev eth0 nodad")
        if name in SOURCES:
            self._wire(outside, "eth1", "br-e", f"{SOURCES[name]}/24")
            self.machine.ip(f"address add {v6(SOURCES[name])}/64 dev eth1 nodad")
        router = "172.16.0.254" if name in SOURCES else "10.0.0.254"
        self.machine.ip(
            *bridge("cbr0"),
            "address add 10.244.0.1/24 dev cbr0",
            "address add fd00:244::1/64 dev cbr0 nodad",
            f"route add default via {router}",
            f"route add default via {v6(router)}",
        )
        self.nft(
            "table ip cni_masquerade { chain nat { type nat hook postrouting priority srcnat;"
            " ip saddr 10.244.0.0/15 ip daddr != 10.244.0.0/15 masquerade; }; }\n"
            "table ip6 cni_masquerade { chain nat { type nat hook postrouting priority srcnat;"
            " ip6 saddr fd00:244::/31 ip6 daddr != fd00:244::/31 masquerade; }; }"
        )

    def _wire(self, outside: Namespace, interface: str, segment: str, address: str) -> None:
        far = f"{self.name}-{interface}"
        self.machine.ip(
            f"link add {interface} type veth peer name {far} netns {outside.name}",
            f"address add {address} dev {interface}",
            f"link set {interface} up",
        )
        outside.ip(f"link set {far} master {segment} up")

    def ensure(self, wanted: Plan) -> tuple[str, ...]:
        """Node and gateway tables, devices, routes and rules, as the agent has them made."""

        def make() -> tuple[str, ...]:
            fenced = nft.ensure(keeper_config.fence(wanted, ["eth0"]))
            fenced += nft.ensure(gateway_nft(wanted))
            outcome = datapath.ensure(wanted)
            assert not outcome.refused
            return fenced + outcome.done

        return self.machine.inside(make)

    def missing(self, wanted: Plan) -> tuple[str, ...]:
        return self.machine.inside(lambda: datapath.missing(wanted))

    def nft(self, text: str) -> str:
        return self.machine.run("nft", "-f", "-", text=text)

    def forge(self, packet: bytes) -> None:
        """Send a raw packet as root does who has taken this node's own guards away."""
        fence = f"netdev {ids.NFT_FENCE}"
        guards = f"flush chain inet {ids.NFT_NODE_INET} output_guard"
        self.nft(f"{guards}\nadd table {fence}\ndelete table {fence}\n")
        send(self.machine, packet)

    def set_master(self, identity: str, master: str, family: int = 4) -> None:
        """Set the master as the lease daemon does at failover. ``master``: a node's name or its tunnel address."""
        address = NODES.get(master, master)

        def write() -> None:
            with contextlib.closing(Neighbours()) as neighbours:
                neighbours.set_master(ids.device(ids.vni(identity)), ids.node_mac(address), family)

        self.machine.inside(write)


@dataclass
class Lab:
    outside: Namespace
    nodes: dict[str, Node]
    pods: dict[str, Pod]

    def reset(self) -> None:
        """All as it was at the beginning: the first gateway's master is g1, the second's g2."""
        for name, node in self.nodes.items():
            node.ensure(plan(name))
            for identity, master in ((FIRST, "g1"), (SECOND, "g2")):
                if name != master:
                    node.set_master(identity, master)
        self.clear()

    def clear(self) -> None:
        """Forget all connections, and give each pod its tag."""
        for node in self.nodes.values():
            node.machine.run("conntrack", "-F")
        for name, pod in self.pods.items():
            pod.tag(0 if name == "unselected" else TAG)

    def masters(self, first: str = "g1", second: str = "g2") -> None:
        """Every node learns of these masters, as an agent tells it."""
        for name, node in self.nodes.items():
            node.ensure(plan(name, first, second))
            for identity, master in ((FIRST, first), (SECOND, second)):
                if master and name != master:
                    node.set_master(identity, master)

    @contextlib.contextmanager
    def witness(self) -> Iterator[Witness]:
        """Everything that arrives outside while the block runs."""
        # Both wires: what arrives by another than it should is a leak too.
        with Capture(self.outside, "br-u") as direct, Capture(self.outside, "br-e") as egress:
            yield Witness(direct, egress)


@contextlib.contextmanager
def lab(log: Path) -> Iterator[Lab]:
    """Build it all, starts the service, and takes all down again."""
    made: list[Namespace] = []
    outside = Namespace(f"{PREFIX}outside")
    try:
        made.append(outside)
        outside.create({"net/ipv4/ip_forward": "1"})
        outside.ip(
            *bridge("br-u"),
            *bridge("br-e"),
            "address add 10.0.0.254/24 dev br-u",
            f"address add {v6('10.0.0.254')}/64 dev br-u nodad",
            "address add 172.16.0.254/24 dev br-e",
            f"address add {v6('172.16.0.254')}/64 dev br-e nodad",
            *(f"address add {address}/32 dev lo" for address in (SERVICE, EXCLUDED, OTHER_SERVICE)),
            f"address add {SERVICE6}/128 dev lo nodad",
            # A service that listens on any address answers a datagram by the route's source.
            f"route replace 10.0.0.0/24 dev br-u src {SERVICE}",
            f"route replace 172.16.0.0/24 dev br-e src {SERVICE}",
        )
        nodes = {}
        for name in NODES:
            made.append(Namespace(f"{PREFIX}{name}"))
            nodes[name] = Node(name, outside)
        pods = {}
        for name, node, address, routed in (
            ("bridged", "w1", "10.244.0.10", False),
            ("routed", "w1", "10.245.0.10", True),
            ("unselected", "w1", "10.244.0.11", False),
            ("twin", "w2", "10.244.0.10", False),
            ("routedtwin", "w2", "10.245.0.10", True),
            ("onmaster", "g1", "10.244.0.10", False),
            ("onstandby", "g2", "10.245.0.10", True),
        ):
            made.append(Namespace(f"{PREFIX}{node}-{name}"))
            pods[name] = Pod(nodes[node], name, address, routed)
        for address in ("0.0.0.0", SERVICE6):
            _serve(outside, address, log)
        yield Lab(outside, nodes, pods)
    finally:
        for machine in reversed(made):
            machine.delete()


def _serve(outside: Namespace, address: str, log: Path) -> None:
    program = ("python3", "-m", "tests.lab.service", "--address", address, str(PORT))
    service = outside.spawn(*program, log=log, reads=True)
    assert service.stdout is not None and service.stdout.readline() == b"ready\n", log.read_text()
    for stream in (service.stdin, service.stdout):
        if stream is not None:
            stream.close()


def vxlan_packet(source: str, node: str, vni: int, inner: bytes, outer: str = "", underlay: int = 4) -> bytes:
    """Return what a tunnel from node ``source`` to ``node`` would carry.

    ``outer``: the outer source address, if it is not the node's. ``underlay``: the outer IP version.
    """
    ends = [v6(NODES[name]) if underlay == 6 else NODES[name] for name in (source, node)]
    return vxlan.packet(ends[0], ends[1], vni, inner, outer)
