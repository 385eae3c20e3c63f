"""What the kernel does not do for one virtual address: told and counted for that address, until it is done."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable, Iterator

import pytest

from cni.kernel.nftables import nft
from gateway_agent.gateway_rules.fence import fence_nft
from gateway_agent.lease.virtual_ips import serving
from gateway_agent.lease_daemon.kernel.vip_kernel import VirtualAddresses
from tests.lab.namespace import Namespace

ONE, TWO = "172.16.0.50", "172.16.0.51"
SIX, SIX_GROUP = "2001:db8::50", "ff02::1:ff00:50"
"""An address, and its solicited-node multicast group, which a node is in if it answers for the address."""
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
        self._number = 0
        self.start_again()

    def start_again(self) -> None:
        self.virtual = self.namespace.inside(
            lambda: VirtualAddresses(selectors.SelectSelector(), lambda address, mac, interface: None)
        )

    def retry(self) -> None:
        self.namespace.inside(lambda: self.virtual.retry_failed({}))

    def move(self, *effects: serving.AddAddress | serving.RemoveAddress) -> None:
        self.namespace.inside(lambda: self.virtual.move_all(effects))

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


def test_an_address_is_not_answered_for_if_the_addresses_cannot_be_listed(node: Node) -> None:
    """Another node has the lease by then."""
    node.move(serving.AddAddress(SIX, "eth1"))
    assert SIX_GROUP in node.namespace.run("ip", "-6", "maddress", "show", "dev", "eth1")
    node.virtual._addresses._socket.close()
    node.move(serving.RemoveAddress(SIX, "eth1"))
    assert SIX_GROUP not in node.namespace.run("ip", "-6", "maddress", "show", "dev", "eth1")
    assert [address for address, _ in node.counted()] == [SIX]


@pytest.mark.parametrize("remove", [Node.start_again, Node.retry], ids=["at the start", "by a retry"])
def test_many_addresses_that_are_not_ours_any_more_cost_each_what_few_do(
    node: Node, remove: Callable[[Node], None]
) -> None:
    def processor_time(count: int) -> float:
        node.move(*(serving.AddAddress(f"172.17.{n // 250}.{n % 250 + 1}", "eth1") for n in range(count)))
        before = time.process_time()
        remove(node)
        taken = time.process_time() - before
        assert "172.17." not in node.namespace.run("ip", "address", "show", "dev", "eth1")
        return taken

    few = min(processor_time(50) for _ in range(3))
    assert processor_time(500) < 40 * few
