"""Which machines a lab has and how they are wired: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

EGRESS_LABEL = {"node-role/egress": ""}
OUTSIDE = "203.0.113.10"
"""The address of the outside service (RFC 5737)."""
OUTSIDE6 = "2001:db8:113::10"
"""IPv6 address of the outside service, in a dual-stack lab (RFC 3849)."""
VIRTUAL = "172.16.0.50"
"""A virtual address in the subnet of the egress interfaces; no machine has it as its own."""
POD_NETWORKS = "10.244.0.0/15"
"""All pods: bridged ones in 10.244.N.0/24, routed ones in 10.245.N.0/24, N the node's number."""
POD_NETWORKS6 = "fd00:244::/31"
"""IPv6 networks of all pods: fd00:244:N::/64 and fd00:245:N::/64, N as it is written in IPv4."""


def virtual_addresses(count: int) -> tuple[str, ...]:
    """Up to 100 virtual addresses, from 172.16.0.128 on."""
    if not 0 < count <= 100:
        raise ValueError(f"the lab has room for 100 virtual addresses, not for {count}")
    return tuple(f"172.16.0.{128 + number}" for number in range(count))


@dataclass(frozen=True)
class Interface:
    name: str
    segment: str
    """Name of the segment: its interfaces share a wire."""
    address: str
    """IPv4 with prefix length; empty where it has none."""
    address6: str = ""
    """IPv6 with prefix length; empty where it has none."""

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]

    @property
    def ip6(self) -> str:
        return self.address6.partition("/")[0]


@dataclass(frozen=True)
class Host:
    """A machine. ``labels`` is None where it is no node of the cluster."""

    name: str
    interfaces: tuple[Interface, ...]
    gateway: str = ""
    """Next hop of the host's default route."""
    labels: Mapping[str, str] | None = None
    number: int = 0
    """Number of a node, from which its pod networks are derived."""
    forwards: bool = False
    gateway6: str = ""

    @property
    def ip(self) -> str:
        """Its first IPv4 address; empty where its first interface has none."""
        return self.interfaces[0].ip

    @property
    def internal_ip(self) -> str:
        """Of a node: IPv4 where it has both."""
        return self.ip or self.ip6

    @property
    def ip6(self) -> str:
        """Its first IPv6 address; empty where it has none."""
        return self.interfaces[0].ip6

    @property
    def egress_ip(self) -> str:
        """Its last address: of an egress node, what the outside sees in basic mode."""
        return self.interfaces[-1].ip

    @property
    def is_egress(self) -> bool:
        return self.labels is not None and EGRESS_LABEL.items() <= self.labels.items()


@dataclass(frozen=True)
class Topology:
    hosts: tuple[Host, ...]
    egress_interface: str
    """The interface whose address the outside sees, on every egress node."""
    spare: tuple[Host, ...] = field(default=())
    """Hosts that may join later."""

    @property
    def nodes(self) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts if host.labels is not None)


def flat() -> Topology:
    """Return a flat topology: nodes in 172.16.0.0/24, egress nodes .7 to .9 and, later, .5; outside a router away."""

    def node(name: str, number: int, last: int, labels: Mapping[str, str]) -> Host:
        wire = Interface("eth0", "nodes", f"172.16.0.{last}/24")
        return Host(name, (wire,), "172.16.0.1", labels, number, forwards=True)

    return Topology(
        hosts=(
            *_outside(Interface("eth0", "nodes", "172.16.0.1/24")),
            node("w1", 1, 21, {}),
            node("w2", 2, 22, {}),
            node("g1", 11, 7, EGRESS_LABEL),
            node("g2", 12, 8, EGRESS_LABEL),
            node("g3", 13, 9, EGRESS_LABEL),
        ),
        egress_interface="eth0",
        spare=(node("g4", 14, 5, EGRESS_LABEL),),
    )


def separate(workers: int = 2, gateways: int = 3) -> Topology:
    """Nodes in 10.0.0.0/24 (``eth0``); egress nodes also in 172.16.0.0/24 (``eth1``), toward the outside."""

    def worker(number: int) -> Host:
        wire = Interface("eth0", "nodes", f"10.0.0.{20 + number}/24")
        return Host(f"w{number}", (wire,), "10.0.0.1", {}, number, forwards=True)

    def gateway(number: int) -> Host:
        wires = (
            Interface("eth0", "nodes", f"10.0.0.{6 + number}/24"),
            Interface("eth1", "egress", f"172.16.0.{6 + number}/24"),
        )
        return Host(f"g{number}", wires, "172.16.0.1", EGRESS_LABEL, 10 + number, forwards=True)

    router = _outside(
        Interface("eth0", "nodes", "10.0.0.1/24"),
        Interface("eth1", "egress", "172.16.0.1/24"),
    )
    nodes = (*map(worker, range(1, workers + 1)), *map(gateway, range(1, gateways + 1)))
    return Topology(hosts=(*router, *nodes), egress_interface="eth1")


def two_routers(workers: int = 1, gateways: int = 3) -> Topology:
    """As :func:`separate`, but the egress network has a router of its own, and the nodes' default route is the other's.

    Behind both there is a service with the same address: ``outside`` behind the nodes' router, ``beyond`` behind that
    of the egress network.
    """
    machines = separate(workers, gateways)
    nodes = (replace(host, gateway="10.0.0.1") for host in machines.nodes)
    border = Host(
        "border",
        (Interface("eth0", "egress", "172.16.0.1/24"), Interface("eth9", "beyond", "203.0.113.1/24")),
        forwards=True,
    )
    beyond = Host("beyond", (Interface("eth0", "beyond", f"{OUTSIDE}/24"),), "203.0.113.1")
    router = _outside(Interface("eth0", "nodes", "10.0.0.1/24"))
    return replace(machines, hosts=(*router, border, beyond, *nodes))


def dual_stack(workers: int = 1, gateways: int = 3) -> Topology:
    """As :func:`separate`, and every address has an IPv6 one beside it: :func:`beside`."""
    return dual_stack_of(separate(workers, gateways))


def dual_stack_of(machines: Topology) -> Topology:
    """Return a lab with an IPv6 address beside every IPv4 one: :func:`beside`."""
    return replace(machines, hosts=tuple(map(_dual_stack, machines.hosts)))


def ipv6_underlay(workers: int = 2, gateways: int = 3) -> Topology:
    """As :func:`dual_stack`, but between the nodes there is no IPv4: workers have none at all."""

    def without(host: Host) -> Host:
        wires = (
            replace(wire, address="" if wire.segment == "nodes" else wire.address) for wire in host.interfaces
        )
        # A worker's way out was by that wire.
        gateway = "" if host.gateway.startswith("10.0.0.") else host.gateway
        return replace(host, interfaces=tuple(wires), gateway=gateway)

    machines = dual_stack(workers, gateways)
    return replace(machines, hosts=tuple(map(without, machines.hosts)))


def api_host(topology: Topology) -> Host:
    """Where the API server of a cluster runs: beside the nodes, ``.2`` in their network."""
    wire = topology.nodes[0].interfaces[0]

    def second(address: str, sign: str) -> str:
        network, _, last = address.rpartition(sign)
        return f"{network}{sign}2/{last.partition('/')[2]}" if address else ""

    return Host(
        "api", (replace(wire, address=second(wire.address, "."), address6=second(wire.address6, ":")),)
    )


def beside(address: str) -> str:
    """Return the IPv6 address, in a /64, that a machine of a dual-stack lab has beside this IPv4 one."""
    network, _, last = address.rpartition(".")
    known = {"10.0.0": "fd00:10::", "172.16.0": "fd00:172::", "203.0.113": OUTSIDE6.removesuffix("10")}
    return known[network] + last


def _dual_stack(host: Host) -> Host:
    wires = (replace(wire, address6=f"{beside(wire.ip)}/64") for wire in host.interfaces)
    return replace(host, interfaces=tuple(wires), gateway6=beside(host.gateway) if host.gateway else "")


def _outside(*toward_cluster: Interface) -> tuple[Host, Host]:
    wire = Interface("eth9", "outside", "203.0.113.1/24")
    router = Host("router", (*toward_cluster, wire), forwards=True)
    outside = Host("outside", (Interface("eth0", "outside", f"{OUTSIDE}/24"),), "203.0.113.1")
    return router, outside
