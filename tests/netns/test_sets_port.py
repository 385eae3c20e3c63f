"""The TCP port at which agents give each other manifests: only the agents of other nodes reach it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.lab.local_user import as_local_user
from tests.lab.namespace import Namespace

from .datapath_lab import KEEPER_PORT
from .datapath_traffic import family_of
from .dual_stack_lab import Tunnel

LO = {4: "127.0.0.1", 6: "::1"}
NAT = "table %s service { chain pre { type nat hook prerouting priority dstnat; tcp dport 9 dnat to %s; }; }"
MASQUERADE = (
    "table %s cni { chain post { type nat hook postrouting priority srcnat; oifname eth0 masquerade; }; }"
)
SERVICES = {4: "192.0.2.1", 6: "2001:db8:9::1"}
WAIT_S = 0.7
"""Seconds that a connection which is dropped is waited for: without a drop it takes less than a millisecond."""


def connecting(address: str, port: int = KEEPER_PORT) -> Callable[[], bool]:
    """Return a function that opens a connection, and returns False if it cannot within :data:`WAIT_S`."""

    def go() -> bool:
        with socket.socket(family_of(address), socket.SOCK_STREAM) as sock, contextlib.suppress(OSError):
            sock.settimeout(WAIT_S)
            sock.connect((address, port))
            return True
        return False

    return go


@pytest.fixture
def listening(tunnel: Tunnel) -> Iterator[socket.socket]:
    """Yield a socket on g1 in an agent's place, at the addresses of all IP versions."""
    address = "::" if tunnel.underlay == 6 else "0.0.0.0"
    with tunnel.lab.nodes["g1"].machine.socket(family_of(address), socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, KEEPER_PORT))
        sock.listen()
        yield sock


def by_machine(machine: Callable[[Tunnel], Namespace]) -> Callable[[Tunnel], bool]:
    return lambda tunnel: machine(tunnel).inside(connecting(tunnel.address("g1")))


def by_user(node: str, lo: bool = False) -> Callable[[Tunnel], bool]:
    return lambda tunnel: as_local_user(
        tunnel.lab.nodes[node].machine, connecting(LO[tunnel.underlay] if lo else tunnel.address("g1"))
    )


def by_masqueraded_pod(tunnel: Tunnel) -> bool:
    """Return whether a pod connects whose node's CNI gives its packets the node's own address."""
    node = tunnel.lab.nodes["w1"]
    family = {4: "ip", 6: "ip6"}[tunnel.underlay]
    node.nft(MASQUERADE % family)
    try:
        return tunnel.lab.pods["unselected"].machine.inside(connecting(tunnel.address("g1")))
    finally:
        node.nft(f"delete table {family} cni")


def by_destination_nat(tunnel: Tunnel) -> bool:
    """Return whether a pod connects to an address that its node rewrites to that of g1."""
    node, service = tunnel.lab.nodes["w1"], SERVICES[tunnel.underlay]
    family, g1 = {4: ("ip", "%s:%d"), 6: ("ip6", "[%s]:%d")}[tunnel.underlay]
    node.nft(NAT % (family, g1 % (tunnel.address("g1"), KEEPER_PORT)))
    try:
        return tunnel.lab.pods["unselected"].machine.inside(connecting(service, 9))
    finally:
        node.nft(f"delete table {family} service")


ATTACKS: dict[str, Callable[[Tunnel], bool]] = {
    "a pod of the node": by_machine(lambda tunnel: tunnel.lab.pods["onmaster"].machine),
    "a pod of another node": by_machine(lambda tunnel: tunnel.lab.pods["unselected"].machine),
    "a routed pod": by_machine(lambda tunnel: tunnel.lab.pods["routed"].machine),
    "a machine of the LAN": by_machine(lambda tunnel: tunnel.lab.outside),
    "a pod with its node's address": by_masqueraded_pod,
    "a pod by destination NAT": by_destination_nat,
    "a local user of another node": by_user("w2"),
    "a local user of the node by lo": by_user("g1", lo=True),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_only_agents_of_other_nodes_connect(tunnel: Tunnel, listening: socket.socket, attack: str) -> None:
    assert not ATTACKS[attack](tunnel)
    assert tunnel.lab.nodes["w2"].machine.inside(connecting(tunnel.address("g1")))
