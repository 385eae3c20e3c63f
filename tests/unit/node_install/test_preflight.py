"""Ports that are free, and ports that are not."""

from __future__ import annotations

import os
import socket

import pytest

from gateway_agent.node_install import preflight
from gateway_agent.node_install.firewalls import Closing, Outcome, Packet

KINDS = (socket.SOCK_DGRAM, socket.SOCK_STREAM)


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_in_use_names_its_process(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        finding = preflight.port("the port", kind, "127.0.0.1", port, "cluster.port")
        assert finding.wrong
        assert f"process {os.getpid()} " in finding.found
        assert finding.hint == "end it, or set cluster.port in agent.yaml"
    free = preflight.port("the port", kind, "127.0.0.1", port, "cluster.port")
    assert (free.wrong, free.found) == (False, "free")


def test_a_closed_firewall_is_a_fault_and_one_that_is_not_understood_is_said() -> None:
    packet = Packet("input", "udp", 7947)
    closed, unknown = Closing("inet a input", Outcome.CLOSED), Closing("inet b input", Outcome.UNKNOWN)
    found = preflight.firewall("the port", packet, (unknown, closed))
    assert (found.wrong, "inet a input" in found.found, "UDP port 7947" in found.hint) == (True, True, True)
    found = preflight.firewall("the port", packet, (unknown,))
    assert (found.wrong, found.judged, "inet b input" in found.found) == (False, False, True)
    assert preflight.firewall("the port", packet, ()).found == "no rules are in the way"
    assert "egw-*" in preflight.firewall("forwarding", Packet("forward"), (closed,)).hint


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("nft: /dev/stdin:43:20-25: Error: unknown chain hook", "a newer nftables"),
        ("nft: /dev/stdin:3:1-5: Error: Could not process rule: Operation not supported", "modules"),
        ("cannot add the device egw-back: Operation not supported", "modules"),
    ],
)
def test_a_refusal_of_the_kernel_and_one_of_nft_have_their_remedies(message: str, remedy: str) -> None:
    assert remedy in preflight.refused_hint(message)
