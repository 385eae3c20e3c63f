"""The data path lab with a virtual IPv6 address beside it, and with tunnels over IPv6."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cni.kernel import ids
from cni.plan import Destination, Plan, PlanEgressIP, PlanNode, PolicySet
from gateway_agent.lease_daemon.kernel.vip_addresses import Addresses
from gateway_agent.lease_daemon.sockets.arp_socket import Announcer
from tests.lab import vxlan
from tests.lab.answering import answering
from tests.lab.packets import udp

from .datapath_lab import (
    DESTINATIONS,
    FIRST,
    MTU,
    NODES,
    SECOND,
    SERVICE,
    SERVICE6,
    SOURCES,
    TAG,
    VIRTUAL6,
    Lab,
    Node,
    plan,
    v6,
    vxlan_packet,
)
from .datapath_traffic import PORT

SIXTH = ids.egress_id("partner", VIRTUAL6)
DEVICE = ids.device(ids.vni(SIXTH))
DESTINATIONS6 = (
    *(each for each in DESTINATIONS if ":" not in each.prefix),
    Destination("2001:db8::/32", SIXTH),
)


def plan6(
    node: str, master: str = "g1", direct: bool = False, underlay: int = 4, source_check: bool = True
) -> Plan:
    """Return :func:`plan` with a virtual address for IPv6 packets of the first tag."""
    base = plan(node)
    egress = PlanEgressIP(
        SIXTH, "partner", VIRTUAL6, slot=3, vni=ids.vni(SIXTH), eligible=("g1", "g2"), master=master, direct=direct,
        interface="eth1" if node.startswith("g") else "", source6=VIRTUAL6 if node.startswith("g") else "",
        mode="VirtualIPAddress",
    )  # fmt: skip
    sets = (
        PolicySet(TAG, ("a", "b"), (FIRST, SECOND), DESTINATIONS6, (SIXTH, SECOND)),
        *base.policy_sets[1:],
    )
    planned = replace(base, egress_ips=(*base.egress_ips, egress), policy_sets=sets)
    if underlay == 4:
        return planned
    nodes = tuple(PlanNode(node.name, v6(node.address)) for node in base.nodes)
    return replace(planned, nodes=nodes, mtu=MTU - 20, source_check=source_check)


def put(node: Node) -> None:
    """Move the virtual address to a node, as the lease daemon does; it leaves all others first."""

    def make() -> None:
        with contextlib.closing(Addresses()) as addresses, contextlib.closing(Announcer()) as announcer:
            addresses.add(VIRTUAL6, "eth1")
            announcer.announce(VIRTUAL6, "eth1")

    _answered[node.machine.name] = answering(node.machine, (VIRTUAL6, "eth1"))
    _answered[node.machine.name].__enter__()
    node.machine.inside(make)


_answered: dict[str, contextlib.AbstractContextManager[Announcer]] = {}
"""Announcers that answer for an address, by machine."""


def take(node: Node) -> None:
    def remove() -> None:
        with contextlib.closing(Addresses()) as addresses:
            addresses.remove(VIRTUAL6, "eth1")

    if node.machine.name in _answered:
        _answered.pop(node.machine.name).__exit__(None, None, None)
    node.machine.inside(remove)


def install(lab: Lab, master: str = "g1", **changes: object) -> None:
    """Every node learns of this master."""
    six = changes.get("underlay") == 6
    for name, node in lab.nodes.items():
        node.ensure(plan6(name, master, **changes))  # type: ignore[arg-type]
        for identity, serving, family in ((FIRST, "g1", 4), (SECOND, "g2", 4), (SIXTH, master, 6)):
            if serving and name != serving:
                node.set_master(identity, v6(NODES[serving]) if six else serving, family)


@contextlib.contextmanager
def served(lab: Lab, underlay: int) -> Iterator[None]:
    """Give g1 the virtual address while the block runs. All nodes know that, and no connection is open."""
    install(lab, underlay=underlay)
    put(lab.nodes["g1"])
    lab.clear()
    try:
        yield
    finally:
        for node in lab.nodes.values():
            if node.machine.name in _answered:
                take(node)


SAME = ((4, 4), (6, 6))
"""IP versions between the nodes and inside the tunnel."""
EVERY = (*SAME, (4, 6), (6, 4))
NAME = "IPv{0[1]}-in-IPv{0[0]}".format


@dataclass(frozen=True)
class Tunnel:
    """The tunnel of a gateway for one IP version, over one IP version between the nodes."""

    lab: Lab
    underlay: int
    inner: int

    @property
    def identity(self) -> str:
        return SIXTH if self.inner == 6 else FIRST

    @property
    def vni(self) -> int:
        return ids.vni(self.identity)

    @property
    def device(self) -> str:
        return ids.device(self.vni)

    @property
    def service(self) -> str:
        return SERVICE6 if self.inner == 6 else SERVICE

    @property
    def shown(self) -> str:
        """Return the address that the outside sees of pods whose packets pass the tunnel to g1."""
        return VIRTUAL6 if self.inner == 6 else SOURCES["g1"]

    def plan(self, node: str) -> Plan:
        return plan6(node, underlay=self.underlay)

    def address(self, node: str) -> str:
        """Return the address at which the node's tunnels end."""
        return v6(NODES[node]) if self.underlay == 6 else NODES[node]

    def source(self, node: str) -> str:
        """Return the source of the node's packets inside the tunnel."""
        return ids.inner(self.address(node), self.inner)

    def pod(self, name: str) -> str:
        """Return the address of a pod of the lab."""
        address = self.lab.pods[name].address
        return v6(address) if self.inner == 6 else address

    def forged(self, node: str) -> bytes:
        """Return a packet for the service as it comes from this node inside the tunnel."""
        return udp(self.source(node), self.service, PORT, b"forged")

    def packet(self, source: str, node: str, inner: bytes, vni: int = 0) -> bytes:
        """Return what a tunnel between two nodes would carry; ``vni``: of another tunnel."""
        return vxlan_packet(source, node, vni or self.vni, inner, underlay=self.underlay)

    def payload(self, source: str, node: str, inner: bytes, vni: int = 0) -> bytes:
        """Return the same without the outer IP and UDP headers."""
        return vxlan.payload_of(self.packet(source, node, inner, vni))
