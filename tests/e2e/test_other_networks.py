"""Networks that are laid out otherwise, and addresses that cannot work in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.lab import SELECTED, Lab
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

VIRTUAL = "172.16.0.50"
BROADCAST, ROUTER = "172.16.0.255", "172.16.0.1"
TAKEN = "172.16.0.60"
OTHER = "other"


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([VIRTUAL], GATEWAY)
    with settled("test_other_networks", topology.separate(workers=1, gateways=2), objects=objects) as made:
        yield made


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (BROADCAST, f"{BROADCAST} is the broadcast address of the subnet of"),
        (ROUTER, f"{ROUTER} is the next hop of this node's routes by eth1"),
    ],
)
def test_no_node_is_elected_for_an_address_that_cannot_work_and_the_reason_is_shown(
    lab: Lab, address: str, reason: str
) -> None:
    master = lab.wait_settled(GATEWAY)
    lab.publish("other", [documents.virtual_gateway(OTHER, [address])])
    try:
        until(lambda: all(reason in _reason(lab, name) for name in ("g1", "g2")), "the reason of both")
        assert lab.master(OTHER) == ""
        assert lab.master(GATEWAY) == master, "the other gateway is not disturbed"
    finally:
        lab.publish("other", [])
    assert lab.wait_settled(GATEWAY) == master


def test_no_node_takes_an_address_that_a_machine_of_the_lan_has_until_it_gives_it_up(lab: Lab) -> None:
    lab.wait_settled(GATEWAY)
    stranger = lab.machines["router"]
    mac = json.loads(stranger.run("ip", "-j", "link", "show", "dev", "eth1"))[0]["address"]
    reason = f"{TAKEN} belongs to another machine, {mac} on eth1"
    stranger.ip(f"address add {TAKEN}/24 dev eth1")
    lab.publish("other", [documents.virtual_gateway(OTHER, [TAKEN])])
    try:
        until(lambda: all(reason in _reason(lab, name) for name in ("g1", "g2")), "the reason of both")
        assert reason in json.dumps(lab.nodes["w1"].agent.status()["egressIPs"])
        assert lab.master(OTHER) == ""
        assert not any(lab.nodes[name].has(TAKEN) for name in ("g1", "g2"))
        stranger.ip(f"address del {TAKEN}/24 dev eth1")
        until(lambda: lab.master(OTHER), "the address is free", 10)
    finally:
        lab.publish("other", [])


def _reason(lab: Lab, name: str) -> str:
    members = lab.nodes["w1"].agent.status()["members"]
    return next(str(member["reason"]) for member in members if member["node"] == name)


def test_a_node_address_on_the_loopback_device_leaves_the_tunnels_their_mtu(lab: Lab) -> None:
    lab.wait_settled(GATEWAY)
    host, machine = lab.nodes["w1"].host, lab.nodes["w1"].machine
    wire = host.interfaces[0]

    def mtu() -> int:
        return int(machine.run("cat", "/sys/class/net/egw-back/mtu"))

    assert mtu() == 1450
    machine.ip(f"address add {host.ip}/32 dev lo", f"address del {wire.address} dev {wire.name}")
    network = host.ip.rpartition(".")[0]
    machine.ip(f"route add {network}.0/24 dev {wire.name} src {host.ip}")
    # The smallest MTU of a link of the way shows when the agent has looked again.
    machine.ip(f"link set {wire.name} mtu 1400")
    until(lambda: mtu() == 1350, "the tunnels follow the link, not the loopback device", 15)
    pod = lab.nodes["w1"].pod("routed", BACKEND)
    assert pod.request(SELECTED).address == VIRTUAL
    pod.stop()
