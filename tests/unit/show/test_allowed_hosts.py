"""Which names of hosts are answered."""

from __future__ import annotations

import pytest

from gateway_agent.show import allowed_hosts

NAMES = {"g1", "g1.example.com"}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.0.0.1:9479", "[::1]:9479", "[::1]", "10.244.1.5:9479", "172.16.0.7", "[fd00::7]:80",
        "localhost", "LOCALHOST:9479", "localhost.:80", "g1", "G1:9479", "g1.example.com", "g1.example.com.:9479",
    ],
)  # fmt: skip
def test_addresses_and_names_of_ours_are_answered(host: str) -> None:
    assert allowed_hosts.refused([host], NAMES) == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:9479", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example:",
        "g1.evil.example", "127.0.0.1@evil.example", "0x7f.1", "2130706433", "[evil.example]:80", "a:b:c", "\x1b[2J",
        "g1.example.com:x",
    ],
)  # fmt: skip
def test_other_names_are_refused(host: str) -> None:
    assert allowed_hosts.refused([host], NAMES) == host
    assert allowed_hosts.refused(["localhost", host], NAMES) == host


def test_who_names_no_host_is_no_browser() -> None:
    assert allowed_hosts.refused([], NAMES) == ""
    assert allowed_hosts.refused([""], NAMES) == "nothing"
