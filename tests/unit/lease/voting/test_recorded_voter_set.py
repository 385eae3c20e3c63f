"""The voter set in the cluster: when it is written, and whom it holds back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from gateway_agent.lease.status import report
from gateway_agent.lease.voting import recorded_voter_set
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND
from gateway_agent.lease.voting.voter_set import GRACE_NS, VoterSet, VoterSetState

from ..simulation import Network

ALL = ("a", "b", "c", "d")


def voters(version: int, members: str) -> VoterSet:
    return VoterSet(version, tuple(members))


@pytest.mark.parametrize(
    ("nodes", "counts"), [("abc", True), ("ab", True), ("bcxyz", True), ("axyz", False), ("", False)]
)
def test_it_counts_while_the_inventory_has_a_majority_of_it(nodes: str, counts: bool) -> None:
    assert (recorded_voter_set.has_majority_in(voters(3, "abc"), nodes) is not None) is counts
    assert recorded_voter_set.has_majority_in(None, nodes) is None


def test_a_new_node_bootstraps_nothing_without_messages_of_its_majority() -> None:
    fresh = VoterSetState("a", None, now=0)
    fresh.bootstrap_from(tuple("abc"))
    fresh.published = voters(4, "cde")
    for name in "bc":
        fresh.merge(name, voters(0, "abc"), None, 1)
    assert not fresh.finish_recovery(ALL, 1)
    assert not fresh.finish_recovery(ALL, 10 * GRACE_NS)
    fresh.merge("d", voters(0, "abc"), None, 10 * GRACE_NS)
    assert fresh.finish_recovery(ALL, 10 * GRACE_NS)
    assert fresh.current == voters(1, "abc")


def test_who_remembers_a_set_is_believed_whatever_it_says() -> None:
    fresh = VoterSetState("a", None, now=0)
    fresh.bootstrap_from(tuple("abc"))
    fresh.published = voters(9, "xyz")
    for name in "bc":
        fresh.merge(name, voters(2, "abc"), None, 1)
    assert fresh.finish_recovery(ALL, 1)
    assert fresh.current == voters(2, "abc")


def test_an_old_set_in_the_cluster_is_sent_to_no_node() -> None:
    """One voter loses its memory. The others go on by what they remember."""
    network = Network(egress=3, workers=4)
    assert network.run_until(network.all_agreed, 5 * SECOND)
    [master] = network.holders(network.ids[0])
    agreed = voter_set_state(network, master).current
    network.published = VoterSet(12, ("g1", "w3", "w4"))
    network.isolate("w3", "w4")
    network.reboot("w1")
    network.start("w1")
    for _ in range(20):
        network.run(SECOND)
        assert network.holders(network.ids[0]) == [master]
    assert voter_set_state(network, master).current == agreed


@pytest.mark.parametrize("old", [("g1",), ("g1", "g2"), ("g1", "g2", "w4")])
def test_an_old_small_set_makes_no_second_owner(old: tuple[str, ...]) -> None:
    """As of a cluster that began with few nodes, restored from a backup. A node of it hears nobody."""
    network, _ = replaced()
    network.published = VoterSet(1, old)
    network.start("g1")
    network.run(4 * GRACE_NS)
    assert network.holders(network.ids[0]) == ["g3"]


def voter_set_state(network: Network, name: str) -> VoterSetState:
    daemon = network.machines[name].daemon
    assert daemon is not None
    return daemon.voter_set


def replaced(leave: Callable[[Network, str], None] = Network.reboot) -> tuple[Network, VoterSet]:
    """Two egress nodes left, one after the other, and workers vote in their place.

    Now they are about to start, and have contact to each other only. ``leave``: how they left; after a reboot they
    have no memory.
    """
    network = Network(egress=3, workers=4)
    assert network.run_until(network.all_agreed, 5 * SECOND)
    for name in ("g1", "g2"):
        leave(network, name)
        network.run(30 * SECOND)
    agreed = voter_set_state(network, "g3").current
    assert not {"g1", "g2"} & set(agreed.members)
    network.isolate("g1", "g2")
    # Nor do their questions on the LAN reach the others.
    network.lan = False
    return network, agreed


def test_nodes_that_remember_nothing_found_no_second_set() -> None:
    network, agreed = replaced()
    network.published = agreed
    for name in ("g1", "g2"):
        network.start(name)
    network.run(10 * GRACE_NS)
    assert network.holders(network.ids[0]) == ["g3"]


def test_without_it_they_would() -> None:
    """What the store of files cannot prevent. It says that the test above can fail."""
    network, _ = replaced()
    network.exclusive = False
    for name in ("g1", "g2"):
        network.start(name)
    taken = network.run_until(lambda: len(network.holders(network.ids[0])) == 2, 2 * GRACE_NS)
    assert GRACE_NS < taken < GRACE_NS + SECOND
    network.run(10 * GRACE_NS)
    assert len(network.holders(network.ids[0])) == 2, "nothing ends it while they are cut off"


def test_without_it_their_probes_prevent_one_on_a_common_lan() -> None:
    network, _ = replaced()
    network.lan = True
    # One of the two gets a lease, but its kernel lets nothing out: the address is answered for.
    network.exclusive = False
    for name in ("g1", "g2"):
        network.start(name)
    speaking = set()
    for _ in range(10 * GRACE_NS // (100 * MILLISECOND)):
        network.run(100 * MILLISECOND)
        speaking |= {*network.speakers(network.ids[0])}
    assert speaking == {"g3"}


def test_nodes_that_remember_need_no_record() -> None:
    """A file that outlives a boot would do as well, but for machines that are installed anew."""
    network, _ = replaced(Network.crash)
    for name in ("g1", "g2"):
        network.start(name)
    network.run(10 * GRACE_NS)
    assert network.holders(network.ids[0]) == ["g3"]


def cold(published: VoterSet | None, *gone: str) -> Network:
    """All machines lose their power, and their memory with it; those that are ``gone`` do not come back."""
    network = Network(egress=3, workers=4)
    assert network.run_until(network.all_agreed, 5 * SECOND)
    network.published = published
    for name in network.machines:
        network.reboot(name)
    network.run(SECOND)
    for name in network.machines.keys() - {*gone}:
        network.start(name)
    return network


def reported(network: Network, name: str) -> tuple[str, ...]:
    daemon = network.machines[name].daemon
    assert daemon is not None
    return report(daemon, network.machines[name].clock(network.now)).problems


def served(network: Network) -> bool:
    return len(network.holders(network.ids[0])) == 1


@pytest.mark.parametrize("gone", [(), ("g1",), ("w1",)])
def test_a_cold_start_is_not_later_for_it(gone: tuple[str, ...]) -> None:
    taken = []
    for published in (VoterSet(1, ("g1", "g2", "g3")), None):
        network = cold(published, *gone)
        taken.append(network.run_until(partial(served, network), 20 * SECOND))
    assert taken[0] <= taken[1] + SECOND // 10


@pytest.mark.parametrize(
    ("egress", "workers", "published", "back", "availability_first"),
    [
        (2, 0, "g1 g2", "g1", False),
        (1, 1, "g1 w1", "g1", False),
        (3, 0, "g1 g2 g3", "g1", True),
        (2, 2, "g1 g2 w1", "g1 w2", True),
    ],
)
def test_it_holds_no_survivor_back(
    egress: int, workers: int, published: str, back: str, availability_first: bool
) -> None:
    network = Network(egress, workers, availability_first=availability_first)
    network.published = VoterSet(1, tuple(published.split()))
    for name in network.machines:
        network.reboot(name)
    network.run(SECOND)
    for name in back.split():
        network.start(name)
    assert network.run_until(partial(served, network), 2 * GRACE_NS)


def test_a_cold_start_without_most_of_the_voters_waits_until_they_are_deleted() -> None:
    """As it would if the others remembered: a majority of the voters is gone, and could be somewhere else."""
    network = cold(VoterSet(5, ("g3", "w1", "w2")), "w1", "w2")
    network.run(GRACE_NS - SECOND)
    assert reported(network, "g1") == ()
    network.run(10 * GRACE_NS)
    assert not served(network)
    [problem] = reported(network, "g1")
    assert "egress-gateway-voters names it receives nothing from w1, w2 (" in problem
    network.inventory = [name for name in network.inventory if name not in ("w1", "w2")]
    # What the agents make of it: policy/keeper_config.py.
    network.published = recorded_voter_set.has_majority_in(network.published, network.inventory)
    assert network.published is None
    for name in network.inventory:
        network.configure(name)
    assert network.run_until(partial(served, network), 10 * SECOND)
