"""What a holder of the cluster's key sends ends no daemon, raises no epoch out of reach and fills no memory."""

from __future__ import annotations

import msgspec
import pytest

from gateway_agent.lease import limits
from gateway_agent.lease.egress_ips.egress_ip import EgressIPs
from gateway_agent.lease.mastership.masters import MasterTable
from gateway_agent.lease.messages.bodies import (
    Answer,
    Body,
    Heartbeat,
    Hello,
    MasterAnnouncement,
    Subscribe,
    encode,
)
from gateway_agent.lease.messages.keys import Key, Keyring
from gateway_agent.lease.messages.wire import MAX_RETIRED, Endpoint
from gateway_agent.lease.voting.protocol import SECOND, Claim
from gateway_agent.lease.voting.voter import Voter
from gateway_agent.lease.voting.voter_set import PROPOSER_LEASE, VoterSet
from tests.fuzz.wire import check, send
from tests.unit.lease.simulation import Network

NONE = VoterSet(0, ())


def settled() -> Network:
    network = Network(egress=3, workers=1, seed=1)
    network.run_until(network.all_agreed, 20 * SECOND)
    return network


def heartbeat(identity: str, epoch: int) -> Body:
    announcement = MasterAnnouncement(identity, epoch, 1.0, False, "", 0)
    return Heartbeat(0, 0, NONE, None, (), (), (), False, "", {}, (announcement,), None)


def raw(body: Body, **changes: object) -> object:
    """Return a message as plain values, with fields replaced whatever their type says."""
    fields = dict(zip(body.__struct_fields__, msgspec.to_builtins(body)[1:], strict=True))
    return [msgspec.to_builtins(body)[0], *{**fields, **changes}.values()]


@pytest.mark.parametrize("epoch", [2**64 - 1, 2**63, limits.HIGHEST_EPOCH + 1, limits.EPOCH_STEP + 2**20, -1])
def test_an_epoch_that_no_change_explains_is_ignored(epoch: int) -> None:
    network = settled()
    [identity] = network.ids
    [master] = network.holders(identity)
    announcement = msgspec.to_builtins(MasterAnnouncement(identity, 1, 1.0, False, "", 0))
    announcement[1] = epoch
    for target in ("g1", "g2", "g3"):
        daemon = network.machines[target].daemon
        assert daemon is not None
        before = daemon.ownership.master_table.highest(identity)
        send(network, target, raw(heartbeat(identity, 1), masters=[announcement]))
        counters = daemon.endpoint.counters
        assert counters["malformed"] + counters["out_of_bounds"] == 1
        assert daemon.ownership.master_table.highest(identity) == before
    network.run(2 * SECOND)
    assert network.holders(identity) == [master]
    check(network)


def test_a_higher_epoch_within_reach_counts_as_before() -> None:
    """The highest epoch is right, always: a master that learns of a higher one claims one above it."""
    network = settled()
    [identity] = network.ids
    send(network, "g1", raw(heartbeat(identity, 1000), masters=[]))
    daemon = network.machines["g1"].daemon
    assert daemon is not None
    assert daemon.endpoint.counters["out_of_bounds"] == 0


def test_every_node_learns_what_the_others_go_by_in_the_end() -> None:
    """However high an epoch was raised, also one that missed how: else it would refuse all that is honest for ever."""
    network = settled()
    [identity] = network.ids
    for epoch in (limits.EPOCH_STEP, 2 * limits.EPOCH_STEP):
        for target in ("g1", "g2", "g3"):
            send(network, target, msgspec.to_builtins(Subscribe(NONE, None, ((identity, epoch, "g9"),))))
    network.run_until(network.all_agreed, 20 * SECOND)
    for name in ("g1", "g2", "g3"):
        network.crash(name)
        network.run(2 * SECOND)
        network.start(name)
        network.run_until(network.all_agreed, 20 * SECOND)
    daemon = network.machines["w1"].daemon
    assert daemon is not None
    assert daemon.endpoint.counters["out_of_bounds"]
    assert daemon.ownership.master_table.highest(identity) > 2 * limits.EPOCH_STEP


def test_unrequested_grants_end_no_daemon() -> None:
    network = settled()
    for target in ("g1", "g2", "g3"):
        daemon = network.machines[target].daemon
        assert daemon is not None
        for seq in (0, 1, daemon.ownership.owner._seq):
            send(
                network,
                target,
                msgspec.to_builtins(Answer(seq, NONE, None, (PROPOSER_LEASE, *network.ids), ())),
            )
    network.run(2 * SECOND)
    assert network.all_agreed()
    check(network)


def test_a_set_of_voters_has_members() -> None:
    with pytest.raises(msgspec.ValidationError, match="has members"):
        msgspec.convert([3, []], VoterSet)
    assert msgspec.convert([0, []], VoterSet) == NONE


def test_incarnations_are_not_remembered_without_end() -> None:
    key = Keyring(Key.parse(b"a key of sixteen bytes or more"))
    mine = Endpoint("a", 1, key, {"b": "10.0.0.2"})
    for incarnation in range(2, 3 * MAX_RETIRED):
        theirs = Endpoint("b", incarnation, key, {"a": "10.0.0.1"})
        # Hellos go to and fro until both are up to date.
        datagram, source, at = theirs.seal("a", encode(Hello())), "10.0.0.2", incarnation * SECOND
        for _ in range(4):
            reply = (mine if source == "10.0.0.2" else theirs).open(datagram, source, at).reply
            if reply is None:
                break
            datagram, source = reply, "10.0.0.1" if source == "10.0.0.2" else "10.0.0.2"
        assert mine._known["b"].incarnation == incarnation
    assert len(mine._known["b"].retired) == MAX_RETIRED


def test_ids_are_not_remembered_without_end() -> None:
    egress_ips, voter = EgressIPs(), Voter(0)
    followings = MasterTable(egress_ips)
    named = [f"{number:016x}" for number in range(limits.MAX_IDS + 100)]
    for each in (named[: limits.MAX_IDS - 1], named):
        announced = [MasterAnnouncement(identity, 1, 1.0, False, "", 0) for identity in each]
        followings.on_announcement("g1", announced, SECOND, 0)
        voter.vote("g1", 1, tuple(Claim(identity, 1) for identity in each), SECOND, SECOND, 0)
    assert len(egress_ips) == len(followings.known()) == len(voter.grants) == limits.MAX_IDS
    refused = voter.vote("g1", 1, (Claim("one more", 1),), SECOND, SECOND, 0).refused
    assert [refusal.id for refusal in refused] == ["one more"]
    assert voter.vote("g1", 1, (Claim(f"{0:016x}", 2),), SECOND, SECOND, 0).granted
