"""The guard on a real kernel, without an agent: packets of pods in interface group 0, and of what is no pod."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from cni.kernel import ids
from cni.kernel.netlink import links
from cni.kernel.nftables import nft
from gateway_agent.config import GUARD_EXCEPT
from gateway_agent.gateway_rules.pod_guard import guard_nft, no_guard
from gateway_agent.manifests.model import Inventory
from gateway_agent.policy import planner
from tests.lab.namespace import Namespace
from tests.lab.packets import frame, mac_of, send_frame, udp
from tests.lab.waiting import until

from .datapath_lab import PREFIX, SERVICE, SERVICE6, Lab, Node, Pod

NETWORKS = ("10.244.0.0/15", "fd00:244::/31")
EXCEPTED = ("eth0", *GUARD_EXCEPT)
W1 = "10.0.0.11"
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
"""<linux/if_tun.h>"""
PODS = ("unselected", "routed")
"""A port of a bridge and a routed veth on node w1."""


def install(lab: Lab, networks: tuple[str, ...] = NETWORKS, excepted: tuple[str, ...] = EXCEPTED) -> None:
    text = guard_nft(planner.never_sent(Inventory(), networks), excepted)
    lab.nodes["w1"].machine.inside(lambda: nft.ensure(text))


@pytest.fixture
def guarded(lab: Lab) -> Iterator[Lab]:
    """Yield the lab with the guard on node w1 and its pods unknown, as if they had started beside the plugin."""
    for name in PODS:
        lab.pods[name].tag(0)
    install(lab)
    yield lab
    lab.nodes["w1"].machine.inside(lambda: nft.ensure(no_guard()))


def judge(pod: Pod) -> None:
    pod.node.machine.inside(lambda: links.tag(pod.host, ids.GROUP_UNSELECTED))


def speak(pod: Pod) -> None:
    """Try each protocol and family. The guard must drop all of it."""
    for service in (SERVICE, SERVICE6):
        with pod.datagrams(service) as asking, contextlib.suppress(OSError):
            asking.seen_as()
        with contextlib.suppress(OSError):
            pod.connect(service, seconds=0.3).sock.close()


def sources_outside(lab: Lab, action: Callable[[], object]) -> set[str]:
    """Return the sources of what arrived outside from a pod or with w1's address while the action ran."""
    with lab.witness() as witness:
        action()
        # What was sent before this datagram has arrived before it.
        marker = lab.nodes["w2"].machine.socket(socket.AF_INET, socket.SOCK_DGRAM)
        marker.sendto(b"end", (SERVICE, 8080))
        until(lambda: "10.0.0.12" in witness.sources(), "the marker is outside")
        marker.close()
        return witness.sources() - {"10.0.0.12"}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_without_a_tag_gets_nothing_out(guarded: Lab, name: str) -> None:
    pod = guarded.pods[name]
    assert sources_outside(guarded, lambda: speak(pod)) == set()
    guarded.nodes["w1"].machine.inside(lambda: nft.ensure(no_guard()))
    assert sources_outside(guarded, lambda: speak(pod)) == {W1, "fd00:10::11"}, "without the guard it does"


@pytest.mark.parametrize("name", PODS)
def test_what_no_policy_selects_passes_once_it_is_judged(guarded: Lab, name: str) -> None:
    pod = guarded.pods[name]
    judge(pod)
    assert pod.seen_as() == W1
    assert pod.seen_as(SERVICE6) == "fd00:10::11"
    with pod.datagrams() as asking:
        assert asking.seen_as() == W1


@pytest.mark.parametrize("name", PODS)
def test_a_connection_is_held_until_its_pod_is_judged(guarded: Lab, name: str) -> None:
    """Dropped, not refused: the pod's kernel sends its SYN again, after one second."""
    pod, seen = guarded.pods[name], []
    with guarded.witness() as witness:
        connecting = threading.Thread(target=lambda: seen.append(pod.connect(seconds=8).seen_as))
        connecting.start()
        machine = guarded.nodes["w1"].machine
        until(lambda: dropped(machine) > 0, "the guard has dropped the first SYN")
        assert witness.sources() == set()
        judge(pod)
        connecting.join()
    assert seen == [W1]


def dropped(machine: Namespace) -> int:
    listing = machine.run("nft", "list", "chain", "inet", ids.NFT_GUARD, "unjudged")
    return int(listing.partition("counter packets ")[2].split()[0])


@pytest.mark.parametrize("name", PODS)
def test_the_cluster_is_reached_before_a_pod_is_judged(guarded: Lab, name: str) -> None:
    """The node itself, and pods of this node."""
    pod, other = guarded.pods[name], guarded.pods["bridged"]
    for machine, address in ((guarded.nodes["w1"].machine, W1), (other.machine, other.address)):
        with contextlib.closing(machine.socket(socket.AF_INET, socket.SOCK_STREAM)) as listening:
            listening.bind((address, 0))
            listening.listen()
            asking = pod.machine.socket(socket.AF_INET, socket.SOCK_STREAM)
            asking.settimeout(2)
            asking.connect((address, listening.getsockname()[1]))
            asking.close()


@pytest.mark.parametrize("name", PODS)
def test_a_pod_without_a_tag_answers_others(guarded: Lab, name: str) -> None:
    pod = guarded.pods[name]
    guarded.outside.ip(f"route replace {pod.address}/32 via {W1}")
    try:
        with contextlib.closing(pod.machine.socket(socket.AF_INET, socket.SOCK_STREAM)) as listening:
            listening.bind((pod.address, 0))
            listening.listen()
            asking = guarded.outside.socket(socket.AF_INET, socket.SOCK_STREAM)
            asking.settimeout(2)
            asking.connect((pod.address, listening.getsockname()[1]))
            asking.close()
    finally:
        guarded.outside.ip(f"route del {pod.address}/32")


def test_before_a_network_is_known_only_the_node_is_inside(guarded: Lab) -> None:
    install(guarded, ())
    pod, other = guarded.pods["routed"], guarded.pods["bridged"]
    with pod.datagrams() as asking:
        asking.sock.sendto(b"x", (other.address, 9))
    until(lambda: dropped(guarded.nodes["w1"].machine) > 0, "the guard has dropped it")
    assert sources_outside(guarded, lambda: speak(pod)) == set()


# --- no pods -----------------------------------------------------------------------------------------------


@pytest.fixture
def container(guarded: Lab) -> Iterator[Pod]:
    """Yield what Docker makes: a veth on a bridge of its own, in group 0."""
    node = guarded.nodes["w1"]
    node.machine.ip(
        "link add docker0 type bridge", "address add 172.17.0.1/16 dev docker0", "link set docker0 up"
    )
    machine = Namespace(f"{PREFIX}w1-container")
    machine.create()
    try:
        node.machine.ip(
            f"link add vethdocker type veth peer name eth0 netns {machine.name}",
            "link set vethdocker master docker0 up",
        )
        machine.ip(
            "address add 172.17.0.2/16 dev eth0", "link set eth0 up", "route add default via 172.17.0.1"
        )
        node.nft("table ip docker { chain nat { type nat hook postrouting priority srcnat;"
                 " ip saddr 172.17.0.0/16 masquerade; }; }")  # fmt: skip
        yield of(node, machine)
    finally:
        machine.delete()
        node.machine.run("nft", "delete", "table", "ip", "docker")
        node.machine.ip("link del docker0")


def of(node: Node, machine: Namespace) -> Pod:
    """Return a pod whose namespace is made already."""
    made = Pod.__new__(Pod)
    made.node, made.address, made.routed, made.host, made.machine = (
        node, "172.17.0.2", False, "vethdocker", machine,
    )  # fmt: skip
    return made


def test_a_container_of_docker_is_no_pod_unless_asked(guarded: Lab, container: Pod) -> None:
    assert container.seen_as() == W1
    install(guarded, excepted=("eth0",))
    assert sources_outside(guarded, lambda: speak(container)) == set()


def test_a_virtual_machine_is_no_pod(guarded: Lab) -> None:
    """Its tap is a port of the pods' bridge, in group 0."""
    machine = guarded.nodes["w1"].machine
    bridge = mac_of(machine, "cbr0")
    # The lowest MAC of all: a bridge without one of its own takes it, and pods that learn it are cut off later.
    machine.ip(
        "tuntap add vm0 mode tap", "link set vm0 address 02:00:00:00:00:01", "link set vm0 master cbr0 up"
    )
    assert mac_of(machine, "cbr0") == bridge
    with open_tap(machine, "vm0") as tap:
        until(lambda: "LOWER_UP" in machine.run("ip", "link", "show", "vm0"), "the tap has carrier")
        sent = frame(bridge, mac_of(machine, "vm0"), udp("10.244.0.77", SERVICE, 8080, b"x"))
        assert sources_outside(guarded, lambda: tap(sent)) == {W1}
    machine.ip("link del vm0")


@contextlib.contextmanager
def open_tap(machine: Namespace, name: str) -> Iterator[Callable[[bytes], object]]:
    """Yield a function that sends a frame as the virtual machine does."""

    def attach() -> int:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
        return descriptor

    descriptor = machine.inside(attach)
    try:
        yield lambda frame: os.write(descriptor, frame)
    finally:
        os.close(descriptor)


def test_what_comes_by_an_uplink_is_forwarded(guarded: Lab) -> None:
    """The node's uplink is a veth itself, in group 0, as on a node that is a container."""
    neighbour, machine = guarded.nodes["w2"].machine, guarded.nodes["w1"].machine

    def send() -> None:
        send_frame(neighbour, "eth0", mac_of(machine, "eth0"), udp("192.0.2.9", SERVICE, 8080, b"x"))

    with guarded.witness() as witness:
        send()
        until(lambda: witness.sources() == {"192.0.2.9"}, "the node has forwarded it")
    install(guarded, excepted=())
    send()
    until(lambda: dropped(machine) > 0, "the guard takes it for a pod's if the uplink is not excepted")


def test_without_the_guard_nothing_of_it_is_left(guarded: Lab) -> None:
    machine = guarded.nodes["w1"].machine
    assert ids.NFT_GUARD in machine.run("nft", "list", "tables")
    machine.inside(lambda: nft.ensure(no_guard()))
    assert ids.NFT_GUARD not in machine.run("nft", "list", "tables")
