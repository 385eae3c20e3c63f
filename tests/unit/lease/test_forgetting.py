"""What is gone from the configuration leaves nothing behind, and nothing that others rely on is forgotten too early."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum

import msgspec
import pytest

from gateway_agent.lease.egress_ips.egress_ip import EgressIPs
from gateway_agent.lease.limits import FORGET_NS, MAX_IDS, EpochLimit
from gateway_agent.lease.mastership.masters import MasterTable
from gateway_agent.lease.messages.bodies import Handover, Hello, MasterAnnouncement, encode
from gateway_agent.lease.messages.keys import Key, Keyring
from gateway_agent.lease.messages.wire import Endpoint
from gateway_agent.lease.node import LeaseNode
from gateway_agent.lease.voting.protocol import SECOND, Claim, Release
from gateway_agent.lease.voting.voter import Voter
from gateway_agent.lease.voting.voter_set import PROPOSER_LEASE
from tests.fuzz.wire import send
from tests.unit.lease.simulation import Network

HELD = (tuple, list, AbstractSet, Mapping)
"""Containers that hold what is remembered."""
KEY = Keyring(Key.parse(b"a key of sixteen bytes or more"))


def mentions(kept: object, wanted: object, path: str = "", seen: set[int] | None = None) -> Iterator[str]:
    """Yield where in an object, and in all that hangs on it, a value is."""
    seen = set() if seen is None else seen
    if kept == wanted:
        yield path
    if isinstance(kept, str | bytes | int | Enum) or kept is None or id(kept) in seen:
        return
    seen.add(id(kept))
    if isinstance(kept, Mapping):
        for name, value in kept.items():
            yield from mentions(name, wanted, f"{path}[{name!r}]", seen)
            yield from mentions(value, wanted, f"{path}[{name!r}]", seen)
    elif hasattr(kept, "__dict__") or hasattr(kept, "__struct_fields__"):
        names = getattr(kept, "__struct_fields__", None) or vars(kept)
        for name in names:
            yield from mentions(getattr(kept, name), wanted, f"{path}.{name}", seen)
    elif isinstance(kept, HELD) or hasattr(kept, "__iter__"):
        for value in kept:
            yield from mentions(value, wanted, f"{path}[]", seen)


def settled(egress: int = 3, workers: int = 2, ids: int = 2) -> Network:
    network = Network(egress, workers, ids=ids, seed=2)
    network.run_until(network.all_agreed, 20 * SECOND)
    return network


def keeper_of(network: Network, name: str) -> LeaseNode:
    daemon = network.machines[name].daemon
    assert daemon is not None
    return daemon


def pass_time(network: Network, name: str, duration_ns: int) -> None:
    """Let one node alone get so much older: to run all of them for as long would take minutes."""
    machine, daemon = network.machines[name], keeper_of(network, name)
    machine.last_clock += duration_ns
    daemon.attend(machine.clock(network.now))
    network._carry_out(machine, daemon.wake(machine.clock(network.now)))


@pytest.mark.parametrize("name", ["g1", "g2", "g3", "w1"])
def test_an_egress_ip_that_is_gone_leaves_nothing_behind(name: str) -> None:
    network = settled()
    gone, stays = network.ids
    network.move("g1", gone, "g2")
    network.run(2 * SECOND)
    network.move("g2", gone, "g3")
    network.run(2 * SECOND)
    send(network, name, msgspec.to_builtins(Handover(gone, "g1")))
    network.ids = [stays]
    for each in network.machines:
        network.machines[each].moves = ()
        network.configure(each)
    network.run(3 * SECOND)
    assert list(mentions(keeper_of(network, name), gone))
    pass_time(network, name, FORGET_NS)
    network.run(SECOND)
    pass_time(network, name, FORGET_NS)
    network.run(3 * SECOND)
    left = [path for path in mentions(keeper_of(network, name), gone) if ".history" not in path]
    assert left == []
    assert list(mentions(keeper_of(network, name), network.address(gone))) == []
    assert network.all_agreed()


@pytest.mark.parametrize("gone", ["g4", "w2"])
def test_a_node_that_is_gone_leaves_nothing_behind(gone: str) -> None:
    network = settled(egress=4, ids=4)
    network.drain(gone)
    network.run(2 * SECOND)
    network.crash(gone)
    network.inventory.remove(gone)
    for each in network.machines:
        network.configure(each)
    network.run(3 * SECOND)
    for name in ("g1", "w1"):
        pass_time(network, name, FORGET_NS)
        network.run(SECOND)
        pass_time(network, name, FORGET_NS)
        network.run(3 * SECOND)
        # The last release of each egress IP names the node that it came from: so many there are, and no more.
        allowed = (".history", ".last_release.")
        paths = mentions(keeper_of(network, name), gone)
        left = [path for path in paths if not any(part in path for part in allowed)]
        assert left == []


def test_an_epoch_is_remembered_while_any_node_names_its_egress_ip() -> None:
    egress_ips = EgressIPs()
    table = MasterTable(egress_ips)
    table.on_announcement("g1", [MasterAnnouncement("a", 50, 1.0, False, "", 0)], SECOND, 0)
    for number in range(3):
        egress_ips.prune((), number * FORGET_NS)
        assert table.highest("a") == 50, "it has a master"
    table.silence(SECOND, 3 * FORGET_NS)
    for number in range(3, 6):
        egress_ips.prune(["a"], number * FORGET_NS)
        assert table.highest("a") == 50, "it is configured here"
    egress_ips.prune((), 6 * FORGET_NS)
    table.note("a", 7)
    egress_ips.prune((), 7 * FORGET_NS)
    assert table.highest("a") == 50, "another node has named it meanwhile, by whatever epoch"
    egress_ips.prune((), 8 * FORGET_NS)
    assert (table.highest("a"), table.known()) == (0, [])


def test_a_grant_is_remembered_until_long_after_its_end_and_a_promise_for_ever() -> None:
    voter = Voter(0)
    voter.vote(
        "g1",
        1,
        (
            Claim("a", 5),
            Claim("b", 5),
            Claim(PROPOSER_LEASE, 9),
        ),
        SECOND,
        SECOND,
        0,
    )
    keep = {"b", PROPOSER_LEASE}
    voter.forget(keep, SECOND + FORGET_NS - 1)
    assert set(voter.grants) == {"a", *keep}
    voter.forget(keep, SECOND + FORGET_NS)
    assert set(voter.grants) == keep


def test_a_voter_that_was_full_takes_new_ids_when_the_old_ones_are_forgotten() -> None:
    voter = Voter(0)
    for number in range(MAX_IDS):
        voter.vote("g1", 1, (Claim(f"{number:016x}", 1),), SECOND, SECOND, 0)
    assert voter.vote("g1", 1, (Claim("one more", 1),), SECOND, SECOND, 2 * SECOND).refused
    voter.forget((), SECOND + FORGET_NS)
    assert voter.vote("g1", 1, (Claim("one more", 1),), SECOND, SECOND, 2 * FORGET_NS).granted


def test_an_epoch_that_is_forgotten_is_out_of_reach_of_no_node() -> None:
    limit = EpochLimit()
    assert not limit.refused({"a": 7}, {}, 0)
    limit.forget(())
    assert not limit.refused({"a": 1 << 40}, {}, 1)


def test_releases_of_egress_ips_that_are_not_configured_are_not_remembered() -> None:
    network = settled()
    daemon = keeper_of(network, "g1")
    for number in range(100):
        release = Release(f"{number:016x}"[::-1], 1, "g2", 5, "")
        daemon.ownership.take_release(release, network.machines["g1"].clock(network.now))
    released = {record.id for record in daemon.ownership.egress_ips if record.last_release}
    assert not released - daemon.ownership.specs.keys()


def test_what_was_recorded_before_a_node_was_forgotten_is_not_taken_when_it_returns() -> None:
    """The number of the conversation goes on where it was: so a replay is as stale as ever."""
    addresses = {"b": "10.0.0.2", "c": "10.0.0.3"}
    mine = Endpoint("a", 1, KEY, addresses)
    theirs = Endpoint("b", 2, KEY, {"a": "10.0.0.1"})

    def converse(at: int) -> list[bytes]:
        """Return what b has sent until both are up to date."""
        recorded, datagram = [], theirs.seal("a", encode(Hello()))
        for step in range(4):
            recorded.append(datagram)
            back = mine.open(datagram, "10.0.0.2", at + step * SECOND).reply
            answer = theirs.open(back, "10.0.0.1", at + step * SECOND).reply if back else None
            datagram = answer or theirs.seal("a", encode(Hello()))
        assert mine.open(datagram, "10.0.0.2", at + 4 * SECOND).body is not None
        return [*recorded, datagram]

    recorded = converse(0)
    mine.peers = {"c": "10.0.0.3"}
    assert list(mentions(mine._known, "b")) == []
    mine.peers = addresses
    for datagram in recorded:
        assert mine.open(datagram, "10.0.0.2", 20 * SECOND).body is None
    converse(30 * SECOND)
