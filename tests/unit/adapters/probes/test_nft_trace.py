"""The kernel's trace of a packet, as netlink brings it."""

from __future__ import annotations

import pytest

from cni.kernel.netlink.constants import (
    NFPROTO,
    NFT_MSG_NEWSETELEM,
    NFT_MSG_TRACE,
    NFTA_TRACE_CHAIN,
    NFTA_TRACE_POLICY,
    NFTA_TRACE_RULE_HANDLE,
    NFTA_TRACE_TABLE,
    NFTA_TRACE_VERDICT,
    NFTA_VERDICT_CODE,
)
from cni.kernel.netlink.messages import NFGENMSG, Message, NetfilterHeader, attribute
from gateway_agent.adapters.probes import nft_trace
from gateway_agent.adapters.probes.nft_trace import Step

DROP, ACCEPT, JUMP = 0, 1, -3 & 0xFFFFFFFF


def message(family: str, *more: bytes, kind: int = NFT_MSG_TRACE) -> Message:
    names = attribute(NFTA_TRACE_TABLE, b"filter\0"), attribute(NFTA_TRACE_CHAIN, b"FORWARD\0")
    return Message(kind, 0, 0, NFGENMSG.pack(NetfilterHeader(NFPROTO[family]), *names, *more))


def verdict(code: int) -> bytes:
    return attribute(NFTA_TRACE_VERDICT, attribute(NFTA_VERDICT_CODE, code.to_bytes(4, "big")))


def handle(number: int) -> bytes:
    return attribute(NFTA_TRACE_RULE_HANDLE, number.to_bytes(8, "big"))


def policy(code: int) -> bytes:
    return attribute(NFTA_TRACE_POLICY, code.to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("received", "step"),
    [
        (message("ip", handle(7), verdict(DROP)), Step("ip", "filter", "FORWARD", 7, True, False)),
        (message("ip", handle(7), verdict(JUMP)), Step("ip", "filter", "FORWARD", 7, False, False)),
        (message("inet", policy(DROP)), Step("inet", "filter", "FORWARD", 0, True, True)),
        (message("ip6", policy(ACCEPT)), Step("ip6", "filter", "FORWARD", 0, False, True)),
        (message("ip", kind=NFT_MSG_NEWSETELEM), None),
    ],
)
def test_each_message_is_one_step(received: Message, step: Step | None) -> None:
    assert nft_trace._step(received) == step


def test_the_base_chain_is_that_of_the_same_hook() -> None:
    steps = [
        Step("ip", "filter", "INPUT", 0, False, True),
        Step("ip", "filter", "FORWARD", 1, False, False),
        Step("ip", "filter", "DOCKER", 2, True, False),
    ]
    assert nft_trace.base_chain(steps) == "FORWARD"
    assert nft_trace.base_chain([Step("inet", "site", "x", 1, False, False), *steps[1:]]) == "FORWARD"
    assert nft_trace.base_chain(steps[2:]) == "DOCKER"


LISTING = """table ip filter { # handle 1
\tchain FORWARD { # handle 2
\t\ttype filter hook forward priority filter; policy drop;
\t\tiifname "docker0" oifname != "docker0" counter packets 1 bytes 40 accept # handle 12
\t\tcounter packets 3 bytes 180 drop # handle 1
\t}
}
"""


@pytest.mark.parametrize(("listing", "hook"), [(LISTING, "forward"), ("", "")])
def test_a_base_chain_has_a_hook(listing: str, hook: str) -> None:
    assert nft_trace.hook(listing) == hook


@pytest.mark.parametrize(("number", "text"), [(1, "counter packets 3 bytes 180 drop"), (5, "")])
def test_a_rule_is_found_by_its_handle(number: int, text: str) -> None:
    assert nft_trace.rule(Step("ip", "filter", "FORWARD", number, True, False), LISTING) == text
