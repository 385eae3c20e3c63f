"""The ConfigMap of the voter set: what is read from it, and when it is written."""

from __future__ import annotations

from typing import Any

import pytest

from gateway_agent.kubernetes import voter_configmap
from gateway_agent.lease.voting import recorded_voter_set
from gateway_agent.lease.voting.voter_set import VoterSet


def voters(version: int, members: str) -> VoterSet:
    return VoterSet(version, tuple(members))


def config_map(data: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": recorded_voter_set.NAME, "resourceVersion": "7"}, "data": data}


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
        ({"version": "1" * 5000, "members": "a b c"}, None),
        ({"version": "18446744073709551616", "members": "a b c"}, None),
        ({"version": "3", "members": "A b c"}, None),
        ({"version": "3", "members": " ".join(f"n{n}" for n in range(17))}, None),
    ],
)
def test_what_it_says(data: dict[str, str], found: VoterSet | None) -> None:
    assert voter_configmap.read(config_map(data)) == found


def test_a_config_map_without_data_says_nothing() -> None:
    assert voter_configmap.read({"metadata": {"name": recorded_voter_set.NAME}, "data": None}) is None


@pytest.mark.parametrize(
    ("shared", "agreed", "at_once", "later"),
    [
        ({}, voters(1, "abc"), True, True),
        ({}, voters(0, "abc"), False, False),
        ({"version": "3", "members": "a b c"}, voters(3, "abc"), False, False),
        ({"version": "3", "members": "a b c"}, voters(4, "abcd"), True, True),
        ({"version": "5", "members": "a b c"}, voters(4, "abcd"), False, True),
        ({"version": "4", "members": "a b c"}, voters(4, "abcd"), False, True),
        ({"version": "many", "members": "a b c"}, voters(4, "abcd"), True, True),
    ],
)
def test_it_follows_what_the_voters_have_agreed(
    shared: dict[str, str], agreed: VoterSet, at_once: bool, later: bool
) -> None:
    for settled, written in ((False, at_once), (True, later)):
        patch = voter_configmap.correction(config_map(shared), agreed, settled=settled)
        assert (patch is not None) is written
        if patch is not None:
            assert patch["metadata"] == {"resourceVersion": "7"}
            assert voter_configmap.read({**config_map({}), **patch}) == agreed


def test_where_there_is_none_none_is_made() -> None:
    assert voter_configmap.correction(None, voters(1, "abc"), settled=True) is None
