"""Settings of the kernel's ARP: a node is ready exactly if its kernel answers for the virtual address."""

from __future__ import annotations

import pytest

from cni.plan import PlanEgressIP
from gateway_agent.adapters.kernel import interfaces
from gateway_agent.manifests.model import VIRTUAL_IP
from gateway_agent.policy.egress_node.readiness import InterfaceFacts, unready

from .link import VIRTUAL, Wire
from .virtual_addresses import OTHER_SUBNET, Inside, addresses, line

__all__ = ["addresses", "line"]


@pytest.mark.parametrize("level", [0, 1, 2, 3, 8])
@pytest.mark.parametrize(
    ("address", "interface"), [(VIRTUAL, "eth1"), (OTHER_SUBNET, "eth1"), (OTHER_SUBNET, "eth2")]
)
def test_a_node_is_ready_exactly_if_its_kernel_answers_for_the_address(
    line: Wire, addresses: Inside, level: int, address: str, interface: str
) -> None:
    """``arp_ignore``: the question comes from a machine of the LAN, eth2 has no other address."""
    line.near.sysctl({f"net/ipv4/conf/{interface}/arp_ignore": str(level)})
    line.far.ip(f"route add {address}/32 dev {interface} src 172.16.0.2")
    addresses.add(address, interface)
    own = ("172.16.0.1/24",) if interface == "eth1" else ()
    facts = InterfaceFacts(up=True, carrier=True, mtu=1500, addresses=own, forwarding=True, arp_ignore=level)
    egress = PlanEgressIP(
        "", "partner", address, 1, 1, ("g1",), mode=VIRTUAL_IP, source=address, interface=interface
    )
    reason = unready(egress, interface, {interface: facts})
    question = f"ping -n -c 1 -W 1 {address} >/dev/null; ip neighbour show {address} dev {interface}"
    answers = line.far.run("sh", "-c", question)
    assert ("lladdr" in answers) is (reason == ""), (answers, reason)
    assert not reason or f"arp_ignore is {level}" in reason


@pytest.mark.parametrize("place", ["all", "eth1", "eth2"])
@pytest.mark.parametrize(
    ("address", "interface"), [(VIRTUAL, "eth1"), (VIRTUAL, "eth2"), (OTHER_SUBNET, "eth2")]
)
@pytest.mark.parametrize("subnet_of_eth2", ["", "the same"])
def test_a_node_is_ready_exactly_if_arp_filter_lets_its_kernel_answer(
    line: Wire, addresses: Inside, subnet_of_eth2: str, address: str, interface: str, place: str
) -> None:
    """Two interfaces in one LAN, which ``arp_filter`` is made for: the kernel answers by the one that it sends by."""
    line.near.sysctl({f"net/ipv4/conf/{place}/arp_filter": "1"})
    if subnet_of_eth2:
        line.near.ip("address add 172.16.0.9/24 dev eth2")
    line.far.ip(f"route add {address}/32 dev {interface} src 172.16.0.2")
    addresses.add(address, interface)
    filtered = line.near.inside(
        lambda: interfaces._arp_filtered(interface, OWN[interface, bool(subnet_of_eth2)])
    )
    facts = InterfaceFacts(
        up=True, carrier=True, mtu=1500, addresses=("172.16.0.1/24",), forwarding=True, arp_filtered=filtered
    )
    egress = PlanEgressIP(
        "", "partner", address, 1, 1, ("g1",), mode=VIRTUAL_IP, source=address, interface=interface
    )
    reason = unready(egress, interface, {interface: facts})
    question = f"ping -n -c 1 -W 1 {address} >/dev/null; ip neighbour show {address} dev {interface}"
    answers = line.far.run("sh", "-c", question)
    assert ("lladdr" in answers) is (reason == ""), (answers, reason)
    assert not reason or "arp_filter is on" in reason


OWN = {
    ("eth1", False): ["172.16.0.1/24"], ("eth1", True): ["172.16.0.1/24"], ("eth2", False): [],
    ("eth2", True): ["172.16.0.9/24"],
}  # fmt: skip
"""Addresses by interface, and whether the two share a LAN."""


@pytest.mark.parametrize("announce", [0, 1, 2])
@pytest.mark.parametrize(
    ("address", "interface"), [(VIRTUAL, "eth1"), (OTHER_SUBNET, "eth1"), (OTHER_SUBNET, "eth2")]
)
def test_a_master_finds_its_neighbours_whatever_it_announces_in_arp_requests(
    line: Wire, addresses: Inside, announce: int, address: str, interface: str
) -> None:
    """``arp_announce``: by which address the kernel asks when it sends with the virtual one."""
    line.near.sysctl({f"net/ipv4/conf/{interface}/arp_announce": str(announce)})
    line.near.ip(f"route add 192.0.2.9/32 dev {interface}")
    line.far.ip(f"address add 192.0.2.9/32 dev {interface}", f"route add {address}/32 dev {interface}")
    addresses.add(address, interface)
    line.near.run("ping", "-n", "-c", "1", "-W", "5", "-I", address, "192.0.2.9")
