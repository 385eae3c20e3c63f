"""What the kernel does not do for one virtual address: told and counted for that address, until it is done."""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterator

import pytest

from cni.kernel.nftables import nft
from gateway_agent.gateway_rules.fence import fence_nft
from gateway_agent.lease.virtual_ips import serving
from gateway_agent.lease_daemon.kernel.vip_kernel import VirtualAddresses
from tests.lab.namespace import Namespace

ONE, TWO = "172.16.0.50", "172.16.0.51"
LIFETIME_NS = 60_000_000_000


class Node:
    """An egress node's interface, and its virtual addresses."""

    def __init__(self) -> None:
        self.namespace = Namespace("egwvk-g1")
        self.namespace.delete()
        self.namespace.create()
        self.namespace.ip(
            "link add eth1 type veth peer name far1", "address add 172.16.0.1/24 dev eth1",
            "link set eth1 up", "link set far1 up",
        )  # fmt: skip
        self._selector = selectors.SelectSelector()
        self.virtual = self.namespace.inside(
            lambda: VirtualAddresses(self._selector, lambda address, mac, interface: None)
        )
        self._number = 0

    def fence(self) -> None:
        self.namespace.inside(lambda: nft.ensure(fence_nft([ONE, TWO], ["eth1"])))

    def do(self, *effects: serving.Effect) -> None:
        for effect in effects:
            self.namespace.inside(lambda effect=effect: self.virtual.carry_out(effect))  # type: ignore[misc]

    def open(self, *addresses: str, ticket: bool = True) -> None:
        self._number += 1
        self.do(
            *([serving.Ticket(self._number, LIFETIME_NS)] if ticket else []),
            serving.Open(self._number, addresses, LIFETIME_NS),
        )

    def problems(self) -> tuple[str, ...]:
        return self.virtual.problems

    def counted(self) -> dict[tuple[str, str], int]:
        return {(f.address, f.what): f.number for f in self.virtual.failures}


@pytest.fixture
def node() -> Iterator[Node]:
    if os.geteuid():
        pytest.skip("needs root: network namespaces")
    made = Node()
    yield made
    made.namespace.delete()


def test_a_fence_that_does_not_open_is_a_problem_for_each_address_until_it_does(node: Node) -> None:
    node.open(ONE)
    node.open(TWO)
    assert [(text.partition(":")[0]) for text in node.problems() if text.startswith("opening")] == [
        f"opening the fence for {ONE}",
        f"opening the fence for {TWO}",
    ]
    node.fence()
    node.open(ONE)
    [text] = node.problems()
    assert text.startswith(f"opening the fence for {TWO}")
    node.do(serving.Close((TWO,)))
    assert node.problems() == (), "an address that is not served is no problem"
    assert node.counted() == {("", "ticket"): 2, (ONE, "open"): 1, (TWO, "open"): 1}


def test_a_lease_that_was_granted_too_late_for_its_ticket_is_a_problem(node: Node) -> None:
    node.fence()
    node.open(ONE, ticket=False)
    assert node.problems() == (f"the fence was not opened for {ONE}: the lease was granted too late",)
    node.open(ONE)
    assert (node.problems(), node.counted()) == ((), {(ONE, "open"): 1})


def test_an_announcement_that_fails_is_a_problem_and_no_other_addresses_ends_that(node: Node) -> None:
    node.do(serving.Announce(ONE, "eth9"), serving.Announce(TWO, "eth1"), serving.Probe(TWO, "eth9"))
    assert node.problems() == (
        f"{ONE} could not be announced on eth9: the interface is down or gone",
        f"{TWO} could not be asked for on eth9: the interface is down or gone",
    )
    node.do(serving.Announce(ONE, "eth1"), serving.Probe(TWO, "eth1"))
    assert node.problems() == ()
    assert node.counted() == {(ONE, "announce"): 1, (TWO, "probe"): 1}
    # On its link there is nobody who could ask.
    node.do(serving.Announce(ONE, "lo"))
    assert node.problems() == ()
    node.namespace.inside(lambda: node.virtual.watch([(ONE, "eth1")]))
    assert node.counted() == {(ONE, "announce"): 1}


def test_what_failed_for_an_address_that_moved_on_is_no_problem_any_more(node: Node) -> None:
    node.do(serving.AddAddress(ONE, "eth9"), serving.Announce(ONE, "eth9"))
    assert len(node.problems()) == 2
    node.namespace.inside(lambda: node.virtual.retry_failed({ONE: "eth9"}))
    assert len(node.problems()) == 2
    node.namespace.inside(lambda: node.virtual.retry_failed({}))
    assert node.problems() == ()
