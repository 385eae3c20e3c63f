"""The voter set in the cluster: who writes it, and what a node that remembers nothing learns of it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway_agent.core import roll
from gateway_agent.core.lease import SECOND
from gateway_agent.core.voters import GRACE_NS, Electorate, Memory, VoterSet

from .simulation import Network

ALL = ("a", "b", "c", "d")


def voters(version: int, members: str) -> VoterSet:
    return VoterSet(version, tuple(members))


def config_map(data: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": roll.NAME, "resourceVersion": "7"}, "data": data}


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({}, None),
        ({"version": "3", "members": "a b c"}, voters(3, "abc")),
        ({"version": "3", "members": " c  a b\na"}, voters(3, "abc")),
        ({"version": "0", "members": "a b c"}, None),
        ({"version": "-1", "members": "a b c"}, None),
        ({"version": "³", "members": "a b c"}, None),
        ({"version": "x", "members": "a"}, None),
        ({"version": "3", "members": ""}, None),
        ({"version": "3"}, None),
    ],
)
def test_what_it_says(data: dict[str, str], found: VoterSet | None) -> None:
    assert roll.read(config_map(data)) == found


def test_a_config_map_without_data_says_nothing() -> None:
    assert roll.read({"metadata": {"name": roll.NAME}, "data": None}) is None


@pytest.mark.parametrize(
    ("standing", "agreed", "written"),
    [
        ({}, voters(1, "abc"), True),
        ({}, voters(0, "abc"), False),
        ({"version": "3", "members": "a b c"}, voters(3, "abc"), False),
        ({"version": "3", "members": "a b c"}, voters(4, "abcd"), True),
        ({"version": "5", "members": "a b c"}, voters(4, "abcd"), False),
        # Nobody of it is left that could vote: the cluster was made anew.
        ({"version": "5", "members": "x y z"}, voters(1, "abc"), True),
        ({"version": "5", "members": "a y z"}, voters(1, "abc"), True),
        ({}, voters(9, "xyz"), False),
    ],
)
def test_it_follows_what_the_voters_have_agreed(standing: dict[str, str], agreed: VoterSet, written: bool) -> None:
    patch = roll.correction(config_map(standing), agreed, ALL)
    assert (patch is not None) is written
    if patch is not None:
        assert patch["metadata"] == {"resourceVersion": "7"}
        assert roll.read({**config_map({}), **patch}) == agreed


def test_where_there_is_none_none_is_made() -> None:
    assert roll.correction(None, voters(1, "abc"), ALL) is None


def test_it_counts_only_for_a_node_that_remembers_nothing() -> None:
    fresh = Electorate("a", None, now=0)
    fresh.suggest(tuple("abc"))
    assert fresh.learn(voters(4, "bcd"), 1)
    assert not fresh.learn(voters(3, "abc"), 2)
    assert fresh.current == voters(4, "bcd")
    fresh.suggest(tuple("abc"))
    assert fresh.current == voters(4, "bcd")
    voter = Electorate("a", Memory(voters(2, "abc"), None, (0, ""), SECOND), now=0)
    assert not voter.learn(voters(4, "bcd"), 1)
    assert voter.current == voters(2, "abc")


def test_it_alone_lets_nobody_vote_sooner() -> None:
    fresh = Electorate("b", None, now=0)
    fresh.learn(voters(4, "bcd"), 0)
    assert not fresh.recover(ALL, GRACE_NS - 1)
    fresh.hear("c", voters(4, "bcd"), None, 1)
    fresh.hear("d", voters(4, "bcd"), None, 1)
    assert fresh.recover(ALL, 2)


def replaced() -> tuple[Network, VoterSet]:
    """Two egress nodes went away, one after the other; workers vote in their place. Now they are back, hear only each
    other, and have forgotten everything."""
    network = Network(egress=3, workers=3)
    assert network.run_until(network.all_agreed, 5 * SECOND)
    for name in ("g1", "g2"):
        network.reboot(name)
        network.run(30 * SECOND)
    keeper = network.machines["g3"].keeper
    assert keeper is not None
    agreed = keeper.electorate.current
    assert not {"g1", "g2"} & set(agreed.members)
    network.isolate("g1", "g2")
    return network, agreed


def test_nodes_that_remember_nothing_found_no_second_set() -> None:
    network, agreed = replaced()
    network.published = agreed
    for name in ("g1", "g2"):
        network.start(name)
    network.run(4 * GRACE_NS)
    assert network.holders(network.ids[0]) == ["g3"]


def test_without_it_they_would() -> None:
    """What the store of files cannot prevent. It says that the test above can fail."""
    network, _ = replaced()
    network.exclusive = False
    for name in ("g1", "g2"):
        network.start(name)
    network.run(4 * GRACE_NS)
    assert len(network.holders(network.ids[0])) == 2
