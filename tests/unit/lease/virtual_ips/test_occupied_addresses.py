"""Addresses that another machine has, in virtual time: the question to the LAN, and the answers to its claims."""

from __future__ import annotations

from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from ..simulation import MAC, Network
from ..small_cluster import DURATION, HEARTBEAT, SILENCE, cluster, master, state, until_another


def test_a_machine_that_has_the_address_too_is_reported_and_answered_at_a_bounded_rate() -> None:
    network = cluster()
    old = master(network)
    network.squatted.add(network.address(network.ids[0]))
    network.run(12 * SECOND)
    assert master(network) == old, "a majority says that it is in the right"
    [conflict] = state(network, old).conflicts
    assert (conflict.mac, conflict.interface) == (MAC, "eth1")
    kernel = network.machines[old].kernel
    last = [at for at, _ in kernel.announced if at > network.machines[old].clock(network.now) - 11 * SECOND]
    assert 2 <= len(last) <= 11
    network.squatted.clear()
    network.run(40 * SECOND)
    assert state(network, old).conflicts == ()


def test_an_address_that_a_stranger_has_is_taken_by_no_node_until_the_stranger_gives_it_up() -> None:
    network = Network(egress=3, workers=1, heartbeat_ns=HEARTBEAT, duration_ns=DURATION, squatted=True)
    for _ in range(100):
        network.run(100 * MILLISECOND)
        assert network.holders(network.ids[0]) == []
    for name in ("g1", "g2", "g3"):
        [reported] = state(network, name).egress
        assert f"belongs to another machine, {MAC} on eth1" in reported.reason
        assert reported.reason in state(network, name).problems
        assert all(not member.ready and MAC in member.reason for member in state(network, name).members)
    network.squatted.clear()
    network.run_until(network.all_agreed, 4 * SECOND)


def test_the_lan_is_asked_before_the_first_takeover_only() -> None:
    """A failover waits for no answer: not for that of a machine which had the address at the first takeover."""
    network = cluster()
    old = master(network)
    others = {"g1", "g2", "g3"} - {old}
    assert {network.probes[name] for name in others} == {1}
    network.squatted.add(network.address(network.ids[0]))
    network.crash(old)
    assert until_another(network, old) < SILENCE + 20 * MILLISECOND
    # A master asks each few seconds, from one second on after it has taken over.
    assert {network.probes[name] for name in others} == {1}


def test_a_node_that_knows_nothing_of_a_master_takes_no_address_for_its_answer() -> None:
    network = cluster()
    old = master(network)
    fresh = next(name for name in ("g1", "g2", "g3") if name != old)
    network.reboot(fresh)
    network.start(fresh)
    network.run(5 * SECOND)
    assert master(network) == old
    assert state(network, fresh).egress[0].reason == ""
    assert all(member.ready for member in state(network, fresh).members)


def test_the_first_claims_are_answered_at_once_and_many_at_a_bounded_rate() -> None:
    network = cluster()
    machine = network.machines[master(network)]
    address = network.address(network.ids[0])
    network.run(3 * SECOND)

    def answered(milliseconds: int, claims: int) -> int:
        """Announcements in that time, with so many claims spread over it."""
        before = len(machine.kernel.announced)
        for _ in range(claims):
            network.claim(machine.name, address)
            network.run(milliseconds * MILLISECOND // claims)
        return len(machine.kernel.announced) - before

    for _ in range(3):
        assert answered(100, 1) == 1
    assert answered(500, 50) == 0
    assert 9 <= answered(10_000, 200) <= 12
