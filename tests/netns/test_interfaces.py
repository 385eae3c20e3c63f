"""What :mod:`gateway_agent.adapters.kernel.interfaces` reads on a real kernel."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gateway_agent.adapters.kernel import interfaces, overlay_devices
from tests.lab.namespace import REPOSITORY, Namespace
from tests.lab.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")

# In a process of its own: psutil and /proc/net look at the namespace of the main thread.
READ = """
import json, sys
from gateway_agent.adapters.kernel import interfaces
print(json.dumps({name: (f.addresses, f.address, sorted(f.default_route), f.uplink, f.forwarding, f.forwarding6,
                         f.up, f.carrier, f.arp_ignore, f.ipv6, f.asks6, sorted(f.next_hops))
                  for name, f in interfaces.read(sys.argv[1:]).items()}))
"""
FIELDS = (
    "addresses",
    "address",
    "default_route",
    "uplink",
    "forwarding",
    "forwarding6",
    "up",
    "carrier",
    "arp_ignore",
    "ipv6",
    "asks6",
    "next_hops",
)


@pytest.fixture
def machine() -> Iterator[Namespace]:
    made = Namespace("egwdp-facts")
    made.create({"net/ipv6/conf/default/accept_dad": "0"})
    try:
        made.ip(
            "link add eth1 type veth peer name far1",
            "link add eth2 type veth peer name far2",
            *(f"link set {name} up" for name in ("eth1", "eth2", "far1", "far2")),
            "address add 172.16.0.7/24 dev eth1",
            "address add 10.0.0.7/30 dev eth2",
            "address add 2001:db8:1::7/64 dev eth1",
            "address add 2001:db8:2::7/64 dev eth2",
        )
        yield made
    finally:
        made.delete()


def read(machine: Namespace, *virtual: str) -> dict[str, dict[str, Any]]:
    """Facts by interface."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    text = machine.run(sys.executable, "-c", READ, *virtual, environment=environment)
    return {name: dict(zip(FIELDS, values, strict=True)) for name, values in json.loads(text).items()}


def test_addresses_with_their_prefixes(machine: Namespace) -> None:
    facts = read(machine)
    own = [address for address in facts["eth1"]["addresses"] if not address.startswith("fe80")]
    assert own == ["172.16.0.7/24", "2001:db8:1::7/64"]
    assert facts["eth2"]["address"] == "10.0.0.7"
    assert facts["eth1"]["up"] and facts["eth1"]["carrier"]
    machine.ip("link set far1 down")
    assert (read(machine)["eth1"]["up"], read(machine)["eth1"]["carrier"]) == (True, False)


def test_a_virtual_address_is_never_the_primary_one(machine: Namespace) -> None:
    machine.ip(
        "address add 172.16.0.50/32 dev eth1 scope host",
        "address add 172.16.0.51/32 dev eth1 label eth1:v",
        "address add 2001:db8:1::50/128 dev eth1 preferred_lft 0",
    )
    # What has a narrower scope is listed first, and is never what the kernel sends by.
    assert read(machine)["eth1"]["address"] == "172.16.0.7"
    facts = read(machine, "172.16.0.50", "2001:db8:1::50")["eth1"]
    assert facts["address"] == "172.16.0.7"
    own = [address for address in facts["addresses"] if not address.startswith("fe80")]
    assert sorted(own) == ["172.16.0.51/32", "172.16.0.7/24", "2001:db8:1::7/64"]


def test_the_address_that_the_kernel_would_send_by_comes_first(machine: Namespace) -> None:
    """Another program's address (kube-vip, keepalived) is listed before it once the node's own has come back."""
    machine.ip("route add default via 172.16.0.1 dev eth1", "address add 172.16.0.60/32 dev eth1")
    machine.ip("address del 172.16.0.7/24 dev eth1", "address add 172.16.0.7/24 dev eth1")
    machine.ip("route replace default via 172.16.0.1 dev eth1")
    facts = read(machine)["eth1"]
    assert facts["address"] == "172.16.0.7"
    assert "172.16.0.60/32" in facts["addresses"]
    # The administrator's choice counts, as for the node itself; it is followed.
    machine.ip(
        "address add 172.16.0.8/24 dev eth1", "route replace default via 172.16.0.1 dev eth1 src 172.16.0.8"
    )
    assert read(machine)["eth1"]["address"] == "172.16.0.8"
    machine.ip(
        "route del default", "address del 172.16.0.8/24 dev eth1", "address del 172.16.0.60/32 dev eth1"
    )
    assert read(machine)["eth1"]["address"] == "172.16.0.7"


def test_an_address_of_another_program_with_its_subnet_still_counts(machine: Namespace) -> None:
    assert "172.16.0.7/24" in read(machine, "172.16.0.7")["eth1"]["addresses"]


def test_default_routes_of_the_main_table(machine: Namespace) -> None:
    def leads() -> dict[str, list[int]]:
        return {
            name: facts["default_route"] for name, facts in read(machine).items() if facts["default_route"]
        }

    assert leads() == {}
    machine.ip(
        # Others' tables, and what leads nowhere.
        "route add default via 10.0.0.6 table 777",
        "route add default via 2001:db8:2::1 table 777 metric 1",
        "route add unreachable ::/0 metric 9",
        "route add unreachable default metric 9",
        "route add 128.0.0.0/1 via 10.0.0.6",
    )
    assert leads() == {}
    machine.ip(
        "route add default via 172.16.0.1 metric 100", "route add default via 2001:db8:1::1 metric 100"
    )
    assert leads() == {"eth1": [4, 6]}
    machine.ip("route add default via 10.0.0.6 metric 50")
    assert leads() == {"eth2": [4], "eth1": [6]}
    machine.ip("route replace ::/0 metric 50 nexthop via 2001:db8:2::1 nexthop via 2001:db8:1::1")
    assert leads() == {"eth2": [4, 6]}


def test_every_default_route_leads_by_an_uplink(machine: Namespace) -> None:
    """Also in another table, and by each next hop; not one that is ours."""

    def uplinks() -> set[str]:
        return {name for name, facts in read(machine).items() if facts["uplink"]}

    assert uplinks() == set()
    machine.ip("route add default via 10.0.0.6 table 777 protocol 233", "route add 128.0.0.0/1 via 10.0.0.6")
    assert uplinks() == set()
    machine.ip("route add default via 10.0.0.6 table 778")
    assert uplinks() == {"eth2"}
    machine.ip("route add default nexthop via 172.16.0.1 nexthop via 10.0.0.6")
    assert uplinks() == {"eth1", "eth2"}


def test_devices_of_overlays_are_found_with_their_ports(machine: Namespace) -> None:
    machine.ip(
        "link add flannel.1 type vxlan id 1 dstport 8472 local 172.16.0.7 nolearning",
        "link add vxlan6 type vxlan id 2 dstport 4789 local 2001:db8:1::7",
        "link add cilium_vxlan type vxlan external dstport 7777",
        "link add plain type veth peer name far3",
    )
    names = ("flannel.1", "vxlan6", "cilium_vxlan", "plain", "gone", "eth1")
    program = (
        "import json, sys; from gateway_agent.adapters.kernel import overlay_devices as devices;"
        "print(json.dumps(devices.of(sys.argv[1:])))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    found = json.loads(machine.run(sys.executable, "-c", program, *names, environment=environment))
    assert found == {
        "flannel.1": list(overlay_devices.Overlay(8472, "172.16.0.7")),
        "vxlan6": list(overlay_devices.Overlay(4789, "2001:db8:1::7")),
        "cilium_vxlan": list(overlay_devices.Overlay(7777, "")),
    }


def test_forwarding_is_the_interfaces_own_for_ipv4_and_common_for_ipv6(machine: Namespace) -> None:
    zero = {"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0"}
    machine.sysctl({**zero, "net/ipv4/conf/eth1/forwarding": "1", "net/ipv6/conf/eth1/forwarding": "1"})
    facts = read(machine)
    assert {name: (facts[name]["forwarding"], facts[name]["forwarding6"]) for name in ("eth1", "eth2")} == {
        "eth1": (True, False), "eth2": (False, False),
    }  # fmt: skip
    machine.sysctl({"net/ipv6/conf/all/forwarding": "1", "net/ipv6/conf/eth1/forwarding": "0"})
    assert read(machine)["eth1"]["forwarding6"], "as the kernel does: see the next test"


def test_the_kernel_forwards_ipv6_by_the_common_setting_alone(machine: Namespace) -> None:
    router, far = Namespace("egwdp-facts-r"), Namespace("egwdp-facts-f")
    router.create({"net/ipv6/conf/default/accept_dad": "0"})
    far.create({"net/ipv6/conf/default/accept_dad": "0"})
    try:
        machine.ip(f"link set far1 netns {router.name}", "route add default via 2001:db8:1::1")
        router.ip(f"link add eth9 type veth peer name eth0 netns {far.name}")
        router.ip(
            *(f"link set {name} up" for name in ("far1", "eth9")),
            "address add 2001:db8:1::1/64 dev far1", "address add 2001:db8:9::1/64 dev eth9",
        )  # fmt: skip
        far.ip(
            "link set eth0 up", "address add 2001:db8:9::2/64 dev eth0", "route add default via 2001:db8:9::1"
        )

        def reached() -> bool:
            message = machine.run("sh", "-c", "ping -6 -n -c 3 -i 0.2 -W 1 2001:db8:9::2 || true")
            return " 0 received" not in message

        def forwarding(common: str, own: str) -> None:
            paths = {f"net/ipv6/conf/{name}/forwarding": own for name in ("far1", "eth9")}
            router.sysctl({"net/ipv6/conf/all/forwarding": common, **paths})

        forwarding("1", "0")
        assert reached()
        forwarding("0", "1")
        assert not reached()
    finally:
        router.delete()
        far.delete()


def test_the_routers_that_routes_lead_to(machine: Namespace) -> None:
    machine.ip(
        "route add 198.51.100.0/24 via 172.16.0.254",
        "route add default via 10.0.0.6 table 777",
        "route add 192.0.2.0/24 nexthop via 172.16.0.253 nexthop via 10.0.0.5",
        "route add 2001:db8:9::/64 via 2001:db8:1::1",
    )
    facts = read(machine)
    assert facts["eth1"]["next_hops"] == ["172.16.0.253", "172.16.0.254", "2001:db8:1::1"]
    assert facts["eth2"]["next_hops"] == ["10.0.0.5", "10.0.0.6"]
    assert not facts["eth2"]["default_route"] and facts["eth2"]["uplink"]


def test_settings_that_keep_a_virtual_address_from_being_answered(machine: Namespace) -> None:
    machine.sysctl({"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/eth2/arp_ignore": "8"})
    machine.sysctl({"net/ipv6/conf/eth1/disable_ipv6": "1"})
    facts = read(machine)
    assert (facts["eth1"]["arp_ignore"], facts["eth2"]["arp_ignore"]) == (1, 8)
    assert (facts["eth1"]["ipv6"], facts["eth2"]["ipv6"]) == (False, True)


def test_the_kernel_asks_ipv6_neighbours_by_a_link_local_address_only(machine: Namespace) -> None:
    """One that is tentative does not count: a duplicate stays so. Where no neighbour is asked, none is needed."""
    facts = read(machine)
    assert facts["eth1"]["asks6"] and facts["eth2"]["asks6"]
    for name in ("eth1", "eth2"):
        machine.run("ip", "-6", "address", "flush", "dev", name, "scope", "link")
    machine.ip("link set eth2 arp off")
    facts = read(machine)
    assert not facts["eth1"]["asks6"] and facts["eth2"]["asks6"]
    machine.sysctl({"net/ipv6/conf/eth1/accept_dad": "1", "net/ipv6/conf/eth1/dad_transmits": "1"})
    machine.ip("address add fe80::7/64 dev far1 nodad", "address add fe80::7/64 dev eth1")
    shown = "ip -6 address show dev eth1 scope link"
    until(lambda: "dadfailed" in machine.run(*shown.split()), "the duplicate is found")
    assert not read(machine)["eth1"]["asks6"]
    machine.ip("address add fe80::8/64 dev eth1 nodad")
    assert read(machine)["eth1"]["asks6"]


def test_packets_leave_by_the_interface_of_the_route_not_by_that_of_the_address(machine: Namespace) -> None:
    """Routing on the host: the node's address is on lo, and its Ethernet interfaces have none of the LAN's."""
    machine.ip("address add 192.0.2.1/32 dev lo", "route add 192.0.2.2/32 dev eth1 src 192.0.2.1")

    def by(*addresses: str) -> frozenset[str]:
        return machine.inside(lambda: interfaces.leaving(addresses))

    assert by("192.0.2.2") == {"eth1"}
    assert by("192.0.2.2", "10.0.0.6", "2001:db8:1::9") == {"eth1", "eth2"}
    assert by("192.0.2.9") == by() == frozenset(), "no route"
