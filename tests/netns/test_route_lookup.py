"""What :mod:`gateway_agent.adapters.kernel.route_lookup` says of a real kernel's answers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from gateway_agent.adapters.kernel import route_lookup
from gateway_agent.policy.egress_node.exit_paths import Found, Lookup, SourceRefusal
from tests.lab.namespace import Namespace

from .link import Wire, wire

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")

DEVICE = "egw-000001"
LOOKUP = Lookup("203.0.113.1", "10.0.0.21", DEVICE, 0)
OUT = Found("eth1", "172.16.0.2")
TO_OUTSIDE = "route add 203.0.113.0/24 via 172.16.0.2"
BACK = "route add 10.0.0.0/24 via 172.16.0.2"


@pytest.fixture(scope="module")
def shared() -> Iterator[Wire]:
    with wire("egwrl") as made:
        made.near.ip(
            f"link add {DEVICE} type vxlan id 1 dstport 4799 local 172.16.0.1",
            f"address add 169.254.233.1/32 dev {DEVICE}",
            f"link set {DEVICE} up",
        )
        yield made


@pytest.fixture
def machine(shared: Wire) -> Iterator[Namespace]:
    """Yield a machine that forwards and has no routes but to its link."""
    machine = shared.near
    machine.sysctl({"net/ipv4/ip_forward": "1"})
    yield machine
    machine.ip(
        "route flush root 203.0.113.0/24", "route flush root 10.0.0.0/24", "route flush root 0/0 scope global"
    )


def found(machine: Namespace, everywhere: int, tunnel: int, *routes: str) -> Found:
    """Return the answer with these values of ``rp_filter`` for all interfaces and for the tunnel."""
    values = {"all": str(everywhere), DEVICE: str(tunnel)}
    machine.sysctl({f"net/ipv4/conf/{name}/rp_filter": value for name, value in values.items()})
    machine.ip(*routes)
    return machine.inside(lambda: route_lookup.ask([LOOKUP]))[LOOKUP]


STRICT, UNROUTED = SourceRefusal.STRICT, SourceRefusal.UNROUTED


@pytest.mark.parametrize(
    ("everywhere", "tunnel", "refusal"),
    [(0, 0, None), (1, 0, STRICT), (0, 1, STRICT), (1, 2, None), (2, 0, None), (2, 1, None)],
)
def test_a_strict_check_of_sources_is_named(
    machine: Namespace, everywhere: int, tunnel: int, refusal: SourceRefusal | None
) -> None:
    """The larger value counts; 2 takes a source if any route leads back to it."""
    answer = found(machine, everywhere, tunnel, TO_OUTSIDE, BACK)
    assert (answer == OUT, answer.refusal) == (refusal is None, refusal)


@pytest.mark.parametrize(("tunnel", "refusal"), [(0, None), (1, UNROUTED), (2, UNROUTED)])
def test_a_source_that_no_route_leads_to_is_named(
    machine: Namespace, tunnel: int, refusal: SourceRefusal | None
) -> None:
    answer = found(machine, 0, tunnel, TO_OUTSIDE)
    assert (answer == OUT, answer.refusal) == (refusal is None, refusal)


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_a_route_that_refuses_is_no_check_of_sources(machine: Namespace, kind: str) -> None:
    """That to nowhere (``blackhole``) has the same error number."""
    answer = found(machine, 2, 0, f"route add {kind} 203.0.113.0/24", BACK)
    assert (bool(answer.error), answer.refusal) == (True, None)


def test_no_route_is_no_check_of_sources(machine: Namespace) -> None:
    assert found(machine, 0, 0, BACK) == Found(error="Network is unreachable")


def test_a_packet_without_an_interface_comes_by_the_route_to_its_source(machine: Namespace) -> None:
    """A rule for what comes from pods is obeyed, as for a pod's packet."""
    machine.ip(TO_OUTSIDE, BACK, "rule add pref 100 iif eth1 to 203.0.113.0/24 unreachable")
    try:
        lookup = Lookup(LOOKUP.destination, LOOKUP.source, "", 0)
        assert machine.inside(lambda: route_lookup.ask([lookup]))[lookup].error == "Network is unreachable"
    finally:
        machine.ip("rule del pref 100")
