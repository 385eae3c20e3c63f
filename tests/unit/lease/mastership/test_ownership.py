"""The egress IPs of one node: what a rival, a conflict, a higher epoch and a lost lease change."""

from __future__ import annotations

import pytest

from gateway_agent.lease.egress_ips.egress_ip import Event
from gateway_agent.lease.ipc import EgressIPSpec
from gateway_agent.lease.mastership.ownership import Ownership
from gateway_agent.lease.messages.bodies import MasterAnnouncement
from gateway_agent.lease.node_state import NodeState
from gateway_agent.lease.voting.protocol import NEVER, SECOND, LeaseState, Release

from ..test_node_state import NOW, node

ONE = "0000000000000001"
SPEC = EgressIPSpec(ONE, "partner", "172.16.0.50", ("a", "b", "c"), ready=True)
EPOCH = 5


def owner(without_quorum: bool = False) -> tuple[NodeState, Ownership]:
    """Return node ``a``, which owns one egress IP by a lease of epoch 5 that ends in a second."""
    state = node()
    ownership = state.ownership
    ownership.configure([SPEC], ownership.timers, False, NOW)
    lease = LeaseState(
        EPOCH, first_seq=1, asked_at=NOW, held_epoch=EPOCH, until=NOW + SECOND, without_quorum=without_quorum
    )
    for event in (Event.MASTERLESS, Event.ASK, Event.GRANT):
        ownership.egress_ips.transition(ONE, event, lease)
    state.due.heartbeat = False
    return state, ownership


def said(epoch: int, without_quorum: bool = False) -> MasterAnnouncement:
    return MasterAnnouncement(ONE, epoch, 0.0, without_quorum, "", 0)


@pytest.mark.parametrize(
    ("mine", "epoch", "rival", "theirs", "keeps"),
    [
        (False, EPOCH + 1, "b", False, True),
        (False, EPOCH + 1, "b", True, True),
        (True, EPOCH - 1, "b", False, False),
        (True, EPOCH + 1, "b", True, False),
        (True, EPOCH - 1, "b", True, True),
        (True, EPOCH, "b", True, True),
    ],
)
def test_of_two_masters_the_one_without_a_majority_or_the_weaker_gives_up(
    mine: bool, epoch: int, rival: str, theirs: bool, keeps: bool
) -> None:
    _, ownership = owner(mine)
    ownership.resolve_conflict(rival, said(epoch, theirs), NOW)
    assert ownership.holds(ONE, NOW) == keeps


@pytest.mark.parametrize("mine", [5, 6])
@pytest.mark.parametrize("theirs", [4, 5, 6, 7])
def test_two_masters_without_a_majority_never_both_give_up_and_never_both_stay(
    mine: int, theirs: int
) -> None:
    """Each decides alone by the same rule, so the rule must be one order of all masters."""

    def stays(me: str, epoch: int, rival: str, rival_epoch: int) -> bool:
        _, ownership = owner(without_quorum=True)
        ownership._me = me
        lease = ownership.egress_ips.lease(ONE)
        assert lease is not None
        lease.held_epoch = lease.epoch = epoch
        ownership.resolve_conflict(rival, said(rival_epoch, True), NOW)
        return ownership.holds(ONE, NOW)

    assert stays("a", mine, "b", theirs) != stays("b", theirs, "a", mine)


def test_a_conflict_counts_only_while_the_lease_runs() -> None:
    state, ownership = owner(without_quorum=True)
    ownership.resolve_conflict("b", said(EPOCH + 1), NOW + 2 * SECOND)
    assert ownership.egress_ips.lease(ONE) is not None, "its end is another input"
    assert not state.due.heartbeat


@pytest.mark.parametrize(
    ("epoch", "master", "asks"),
    [
        (EPOCH - 1, "b", False),
        (EPOCH, "", False),
        (EPOCH, "a", False),
        (EPOCH, "b", True),
        (EPOCH + 1, "", True),
    ],
)
def test_an_epoch_of_another_master_is_exceeded_at_once(epoch: int, master: str, asks: bool) -> None:
    state, ownership = owner()
    ownership.bump_epoch(ONE, epoch, master)
    assert state.due.heartbeat == asks
    lease = ownership.egress_ips.lease(ONE)
    assert lease is not None
    assert (lease.epoch > epoch) == (asks or epoch < EPOCH)
    assert ownership.holds(ONE, NOW), "the lease of before goes on"


@pytest.mark.parametrize("without_quorum", [True, False])
def test_an_address_that_a_machine_has_is_given_up_unless_a_majority_granted_it(without_quorum: bool) -> None:
    _, ownership = owner(without_quorum)
    ownership.give_up(ONE, "00:00:5e:00:53:01 has it", NOW)
    assert ownership.holds(ONE, NOW) != without_quorum


def test_a_lease_that_has_ended_is_released_with_the_time_without_service() -> None:
    _, ownership = owner()
    ownership.expire(False, NOW + SECOND - 1)
    assert ownership.holds(ONE, NOW + SECOND - 1)
    ownership.expire(False, NOW + 2 * SECOND)
    assert not ownership.holds(ONE, NOW + 2 * SECOND)
    assert ownership.owner.next_end() == NEVER


def test_an_egress_ip_that_is_no_longer_configured_is_given_up() -> None:
    state, ownership = owner()
    ownership.configure([], ownership.timers, False, NOW)
    assert not ownership.holds(ONE, NOW)
    assert state.due.heartbeat, "voters must know"
    ownership.forget_old(NOW)
    assert ownership.egress_ips.find(ONE) is not None, "its epoch is still needed"
    ownership.forget_old(NOW + 7 * 24 * 3600 * SECOND)
    assert ownership.egress_ips.find(ONE) is None


def test_a_release_of_an_egress_ip_that_is_not_ours_does_nothing() -> None:
    state, ownership = owner()
    other = "0000000000000002"
    assert ownership.release(other, Event.RELEASE, "drained", NOW) is None
    assert not state.due.heartbeat


def test_a_release_of_an_announced_lease_is_returned_once() -> None:
    state, ownership = owner()
    ownership._announce_held(NOW)
    release = ownership.release(ONE, Event.RELEASE, "drained", NOW)
    assert isinstance(release, Release)
    assert (release.id, release.epoch, release.reason) == (ONE, EPOCH, "drained")
    assert state.due.heartbeat, "voters must know"
    assert not ownership.holds(ONE, NOW)
    assert ownership.release(ONE, Event.RELEASE, "drained", NOW) is None
