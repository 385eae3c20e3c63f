"""The report of a lease node: each state of an egress IP and of a member, with the reason that an operator needs."""

from __future__ import annotations

import pytest

from gateway_agent.lease.ipc import UNCONFIGURED
from gateway_agent.lease.status import report, unconfigured
from gateway_agent.lease.voting.members import NO_MAJORITY
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from .simulation import Network
from .small_cluster import DURATION, cluster, master, state


def others(network: Network) -> list[str]:
    return [name for name in ("g1", "g2", "g3") if name != master(network)]


def test_one_node_is_master_and_all_name_it() -> None:
    network = cluster()
    old = master(network)
    for name in network.machines:
        [egress] = state(network, name).egress
        wanted = "master" if name == old else "standby" if name in others(network) else "none"
        assert (egress.master, egress.state, egress.reason) == (old, wanted, "")
        assert (egress.margin_ms is not None) == (name == old)
        assert egress.margin_ms is None or 0 < egress.margin_ms <= DURATION // MILLISECOND


def test_the_proposer_is_no_egress_ip() -> None:
    network = cluster()
    assert {egress.id for name in network.machines for egress in state(network, name).egress} == {
        *network.ids
    }


def test_a_node_without_a_majority_says_so_of_itself_and_its_egress_ips() -> None:
    network = cluster()
    cut_off = others(network)[0]
    network.isolate(cut_off)
    network.run(SECOND)
    seen = state(network, cut_off)
    assert seen.isolated
    assert {egress.reason for egress in seen.egress} == {NO_MAJORITY}
    members = {member.node: member for member in seen.members}
    assert (members[cut_off].alive, members[cut_off].ready, members[cut_off].reason) == (
        True, False, NO_MAJORITY,
    )  # fmt: skip
    for name, member in members.items():
        assert name == cut_off or (member.alive, member.reason) == (
            False,
            f"silent for {member.silent_ms} ms",
        )


@pytest.mark.parametrize("seed", range(3))
def test_a_crashed_member_is_silent_as_long_as_it_is_gone(seed: int) -> None:
    network = cluster(seed=seed)
    gone = others(network)[0]
    network.crash(gone)
    network.run(2 * SECOND)
    [member] = [each for each in state(network, master(network)).members if each.node == gone]
    # By clocks of which each differs by a hundredth at most.
    assert 1_900 <= member.silent_ms <= 2_100
    assert not member.alive


def test_a_member_that_was_never_received_has_no_time() -> None:
    network = cluster()
    new = others(network)[0]
    network.crash(new)
    network.isolate(new)
    network.start(new)
    network.run(SECOND)
    for member in state(network, new).members:
        expected = 0 if member.node == new else -1
        assert member.silent_ms == expected
        assert member.node == new or member.reason == "never received"


def test_without_a_ready_node_the_reason_names_each_with_its_own() -> None:
    network = cluster()
    for name in ("g1", "g2", "g3"):
        network.set_ready(name, network.ids[0], False)
    network.run(3 * SECOND)
    [egress] = state(network, "w1").egress
    assert egress.master == ""
    assert egress.since == 0.0
    assert egress.reason


def test_problems_of_the_process_come_first_and_keys_only_if_asked_for() -> None:
    network = cluster()
    machine = network.machines["g1"]
    assert machine.daemon is not None
    now = machine.clock(network.now)
    seen = report(machine.daemon, now, problems=("the disk is full",))
    assert seen.problems[0] == "the disk is full"
    assert seen.keys is None
    shown = report(machine.daemon, now, keys=True).keys
    assert shown is not None
    assert shown.accepts == (shown.signs,)
    assert {row.node for row in shown.peers} == {*network.machines} - {"g1"}


def test_a_report_changes_nothing() -> None:
    network = cluster()
    machine = network.machines[others(network)[0]]
    assert machine.daemon is not None
    now = machine.clock(network.now)
    assert report(machine.daemon, now, keys=True) == report(machine.daemon, now, keys=True)


def test_an_unconfigured_daemon_serves_nothing() -> None:
    seen = unconfigured(("no key",))
    assert (seen.incarnation, seen.isolated, seen.egress, seen.problems) == (
        UNCONFIGURED,
        True,
        (),
        ("no key",),
    )
