"""Who is followed, and what a follower makes of silence."""

from __future__ import annotations

import pytest

from gateway_agent.lease.egress_ips.egress_ip import EgressIPs
from gateway_agent.lease.mastership.masters import MasterTable
from gateway_agent.lease.messages.bodies import MasterAnnouncement
from gateway_agent.lease.voting.members import NO_MAJORITY, Member
from gateway_agent.lease.voting.protocol import MILLISECOND, Release

ONE = "0000000000000001"
HOLD = 1500 * MILLISECOND


def announcement(epoch: int) -> MasterAnnouncement:
    return MasterAnnouncement(ONE, epoch, 1000.0, False, "because", 12)


def following(node: str, epoch: int) -> MasterTable:
    followings = MasterTable(EgressIPs())
    followings.on_announcement(node, [announcement(epoch)], HOLD, 0)
    return followings


@pytest.mark.parametrize(
    ("node", "epoch", "at", "master"),
    [
        ("b", 6, 1, "b"),
        ("b", 5, 1, "a"),
        ("b", 4, 1, "a"),
        ("a", 5, 1, "a"),
        ("a", 4, 1, "a"),
        ("b", 5, HOLD + 1, "b"),
        ("b", 4, HOLD + 1, "a"),
    ],
)
def test_the_highest_epoch_is_followed(node: str, epoch: int, at: int, master: str) -> None:
    followings = following("a", 5)
    turns = followings.on_announcement(node, [announcement(epoch)], HOLD, at)
    assert followings.of(ONE).master == master
    assert [(turn.before.master, turn.after.master, turn.reason) for turn in turns] == (
        [("a", "b", "because")] if master == "b" else []
    )


def test_a_silent_master_is_given_up_after_the_hold() -> None:
    followings = following("a", 5)
    assert followings.next_silence(HOLD) == HOLD
    assert followings.silence(HOLD, HOLD - 1) == []
    (turn,) = followings.silence(HOLD, HOLD)
    assert (turn.before.master, turn.after.master, turn.silent_ms) == ("a", "", 1500)
    assert turn.reason == followings.of(ONE).lost == "a silent for 1500 ms"
    assert followings.on_announcement("b", [announcement(4)], HOLD, HOLD + 1) == [], (
        "the epoch is not forgotten"
    )


def test_a_master_that_lets_go_is_followed_until_another_one_shows_up() -> None:
    followings = following("a", 5)
    assert followings.release(Release(ONE, 5, "a", 1, "eth1 is down"), 0)
    assert not followings.release(Release(ONE, 5, "a", 1, "eth1 is down"), 0), "no news"
    assert followings.of(ONE).master == "a"
    assert followings.of(ONE).gone == "released by a: eth1 is down"


@pytest.mark.parametrize(("node", "epoch"), [("b", 9), ("a", 4)])
def test_a_release_by_another_or_of_an_earlier_epoch_is_not_the_masters(node: str, epoch: int) -> None:
    followings = following("a", 5)
    assert not followings.release(Release(ONE, epoch, node, 1, ""), 0)
    assert followings.of(ONE).gone is None


def test_a_master_that_no_longer_says_so_has_given_up() -> None:
    followings = following("a", 5)
    followings.on_announcement("a", [], HOLD, 1)
    assert followings.of(ONE).gone == "given up by a"
    followings.on_announcement("b", [], HOLD, 1)
    assert followings.of(ONE).master == "a"


def test_a_master_below_the_epoch_that_is_known_must_learn_it() -> None:
    followings = following("a", 5)
    assert followings.outranked("b", [announcement(4)])
    assert followings.outranked("b", [announcement(5)]), "who has forgotten may come to the same epoch"
    assert not followings.outranked("a", [announcement(5)])
    assert not followings.outranked("b", [announcement(6)])
    assert followings.known() == [(ONE, 5, "a")]


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (Member(0), ""),
        (Member(0, isolated=True), NO_MAJORITY),
        (Member(0, reason="stopping", isolated=True), "stopping"),
        (Member(0, unready={ONE: "eth1 is down"}), "eth1 is down"),
    ],
)
def test_why_a_member_is_not_ready(member: Member, reason: str) -> None:
    assert member.why_not() == reason


def test_repeated_announcements_keep_a_master_as_each_alone_does() -> None:
    followings = following("a", 5)
    for at in range(0, 4 * HOLD, HOLD // 4):
        assert followings.on_announcement("a", (announcement(5),), HOLD, at) == []
        assert followings.silence(HOLD, at) == []
    (turn,) = followings.silence(HOLD, at + HOLD)
    assert (turn.before.master, turn.silent_ms) == ("a", 1500)
    assert followings.on_announcement("a", (announcement(5),), HOLD, at + HOLD + 1)[0].after.master == "a"


def test_the_silence_of_a_master_begins_with_its_last_announcement_though_that_said_nothing_new() -> None:
    followings = following("a", 5)
    for at in (100, 200, 300):
        followings.on_announcement("a", (announcement(5),), HOLD, at)
    assert followings.silent_ns(ONE, 1000, 350) == 50
    assert followings.on_announcement("b", (announcement(5),), HOLD, 300 + HOLD) == [], "a is not stale"
    (turn,) = followings.on_announcement("b", (announcement(5),), HOLD, 301 + HOLD)
    assert turn.after.master == "b"


def test_a_release_between_two_equal_announcements_is_over_with_the_second() -> None:
    followings = following("a", 5)
    followings.on_announcement("a", (announcement(5),), HOLD, 1)
    assert followings.release(Release(ONE, 5, "a", 1, "drain"), 2)
    assert followings.of(ONE).gone
    followings.on_announcement("a", (announcement(5),), HOLD, 3)
    assert followings.of(ONE).gone is None
