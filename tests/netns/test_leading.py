"""Which veth leads to a pod: by a route of its own, or through a bridge."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cni.kernel import rtnl
from tests.lab.namespace import Namespace
from tests.lab.waiting import until

ROUTED, BRIDGED, BRIDGED6, UNUSED, REMOTE = (
    "10.245.1.5",
    "10.244.1.5",
    "fd00:244:1::5",
    "10.244.1.99",
    "192.0.2.1",
)


@pytest.fixture(scope="module")
def node() -> Iterator[Namespace]:
    """Yield a node with one routed pod (as of ptp and Calico) and one behind a bridge (as of bridge and flannel)."""
    machines = {name: Namespace(f"egwld-{name}") for name in ("node", "routed", "bridged")}
    for machine in machines.values():
        machine.delete()
        machine.create({"net/ipv6/conf/default/accept_dad": "0"})
    node = machines["node"]
    node.ip(
        "link set lo up",
        "link add cni0 type bridge",
        "address add 10.244.1.1/24 dev cni0",
        "address add fd00:244:1::1/64 dev cni0 nodad",
        "link set cni0 up",
        f"link add veth-b type veth peer name eth0 netns {machines['bridged'].name}",
        "link set veth-b master cni0 up",
        f"link add veth-r type veth peer name eth0 netns {machines['routed'].name}",
        "link set veth-r up",
        f"route add {ROUTED}/32 dev veth-r",
    )
    machines["bridged"].ip(
        "link set eth0 up", f"address add {BRIDGED}/24 dev eth0", f"address add {BRIDGED6}/64 dev eth0 nodad"
    )
    machines["routed"].ip("link set eth0 up", f"address add {ROUTED}/32 dev eth0")
    yield node
    for machine in machines.values():
        machine.delete()


def leading(node: Namespace, *addresses: str) -> dict[str, str]:
    return node.inside(lambda: rtnl.leading(addresses))


def test_a_route_leads_to_it(node: Namespace) -> None:
    assert leading(node, ROUTED) == {ROUTED: "veth-r"}


@pytest.mark.parametrize("address", [BRIDGED, BRIDGED6])
def test_a_bridge_leads_to_it_though_it_has_never_spoken(node: Namespace, address: str) -> None:
    until(lambda: leading(node, address) == {address: "veth-b"}, "the kernel has asked for it")


def test_what_leads_nowhere_is_left_out(node: Namespace) -> None:
    assert leading(node, UNUSED, REMOTE, "10.244.1.1") == {}
