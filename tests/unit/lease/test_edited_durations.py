"""``lease.duration`` is edited on one node after another while the cluster serves."""

from __future__ import annotations

import pytest

from gateway_agent.lease.ipc import Facts
from gateway_agent.lease.messages.agreement import Agreement
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from .simulation import Network
from .small_cluster import DURATION, cluster, master, state

NODES = ("g1", "g2", "g3", "w1")
LONGER, SHORTER = 8 * DURATION, 3 * DURATION // 4


def edit(network: Network, name: str, duration_ns: int) -> None:
    network.edited_durations[name] = duration_ns
    network.configure(name)


def lease_ns(network: Network) -> int:
    """Return the length of the master's lease."""
    daemon = network.machines[master(network)].daemon
    assert daemon is not None
    lease = daemon.ownership.egress_ips.lease(network.ids[0])
    assert lease is not None
    return lease.duration_ns


@pytest.mark.parametrize("gap_ns", [0, 300 * MILLISECOND])
@pytest.mark.parametrize("after", [LONGER, SHORTER])
@pytest.mark.parametrize("order", [NODES, NODES[::-1], ("g2", "w1", "g1", "g3")])
def test_an_edit_of_one_node_after_another_moves_nothing(
    order: tuple[str, ...], after: int, gap_ns: int
) -> None:
    network = cluster()
    # Until a set of voters is as old as the longest lease, the set before it counts too.
    network.run(LONGER)
    before, takeovers = master(network), network.takeovers
    for name in order:
        edit(network, name, after)
        network.run(gap_ns)
    network.run(3 * SECOND)
    assert (master(network), network.takeovers) == (before, takeovers)
    assert lease_ns(network) == after
    assert not any(state(network, name).problems for name in NODES)


@pytest.mark.parametrize("after", [8 * DURATION, 3 * DURATION])
def test_nor_does_it_if_one_message_of_ten_is_lost(after: int) -> None:
    network = cluster(seed=3, duration_ns=4 * DURATION)
    network.run(LONGER)
    takeovers = network.takeovers
    network.loss = 0.1
    for name in NODES:
        edit(network, name, after)
        network.run(300 * MILLISECOND)
    network.loss = 0
    network.run(5 * SECOND)
    assert network.takeovers == takeovers
    assert lease_ns(network) == after


@pytest.mark.parametrize("other", [LONGER, SHORTER])
def test_a_node_that_keeps_another_length_is_named_and_costs_no_failover(other: int) -> None:
    network = cluster()
    old = master(network)
    [edited, _] = [name for name in ("g1", "g2", "g3") if name != old]
    edit(network, edited, other)
    network.run(3 * SECOND)
    assert master(network) == old
    assert lease_ns(network) == min(other, DURATION)
    network.crash(old)
    network.run_until(network.all_agreed, SECOND)
    assert any(text.startswith("lease.duration is") for text in state(network, edited).problems)


def test_a_length_that_no_lease_could_be_renewed_in_is_not_followed() -> None:
    agreement, voters = Agreement(), ("g1", "g2", "g3")
    agreement.configure(Facts(4799, DURATION, False, ""), voters)
    agreement.on_facts("g2", Facts(4799, 1, False, ""), 0)
    assert agreement.grantable_ns(DURATION, voters, 3) == DURATION
    agreement.on_facts("g3", Facts(4799, 3, False, ""), 0)
    assert agreement.grantable_ns(DURATION, voters, 3) == 3
    assert agreement.grantable_ns(DURATION, ("g1", "g2"), 3) == DURATION
    assert agreement.grantable_ns(2, voters, 3) == 2
