"""Nodes that are silent are looked for, and what they send to other ports or over another family names them."""

from __future__ import annotations

import itertools

import pytest

from gateway_agent.lease.ipc import KeeperConfig, Peer
from gateway_agent.lease.messages.bodies import Hello, encode
from gateway_agent.lease.messages.keys import Key, Keyring
from gateway_agent.lease.messages.strays import (
    CHECK_INTERVAL_NS,
    CURRENT_NS,
    EAGER_NS,
    GAP_NS,
    MAX_ASKED,
    PATIENT_NS,
    Strays,
)
from gateway_agent.lease.messages.wire import Endpoint
from gateway_agent.lease.voting.protocol import SECOND
from gateway_agent.lease.voting.quorum_view import CANDIDATE_TTL_NS, QuorumView
from gateway_agent.lease.voting.voter_set import VoterSetState

KEY = Keyring(Key.parse(b"0123456789abcdef"))
OTHER = Keyring(Key.parse(b"another key, not ours"))
ADDRESSES = {"g1": "10.0.0.1", "g2": "10.0.0.2", "w1": "10.0.0.3", "w2": "10.0.0.4"}
LATER = CANDIDATE_TTL_NS + 1


class Here:
    """One node, and what it finds."""

    def __init__(self, name: str = "g1", addresses: dict[str, str] = ADDRESSES) -> None:
        peers = tuple(Peer(each, address, each.startswith("g")) for each, address in addresses.items())
        self.config = KeeperConfig(name, 7947, "", SECOND // 20, SECOND // 4, False, peers, ())
        self.contact = QuorumView(self.config.electorate, VoterSetState(name, None, 0), 0, 0)
        self.endpoint = Endpoint(name, 1, KEY, {n: a for n, a in addresses.items() if n != name})
        self.strays = Strays(self.contact, self.endpoint)

    def asked(self, now: int) -> list[str]:
        return [question.address for question in self.strays.questions(now)]

    def problems(self) -> list[str]:
        return list(self.strays.problems(self.config))


def sent_by(name: str, keys: Keyring = KEY) -> bytes:
    return Endpoint(name, 2, keys, {"g1": "10.0.0.1"}).seal("g1", encode(Hello()))


def test_an_egress_node_looks_for_all_and_a_worker_for_egress_nodes() -> None:
    assert Here("g1").asked(LATER) == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert Here("w1").asked(LATER) == ["10.0.0.1", "10.0.0.2"]
    assert Here("g1").asked(CANDIDATE_TTL_NS - 1) == []


def test_a_node_that_sends_is_not_searched() -> None:
    here = Here()
    for name in ("g2", "w1"):
        here.contact.on_message(name, LATER - 1)
    assert here.asked(LATER) == ["10.0.0.4"]


def test_what_lasts_is_looked_for_ever_more_rarely() -> None:
    here = Here()
    times = [now for now in range(LATER, LATER + 6 * EAGER_NS, CHECK_INTERVAL_NS) if here.asked(now)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert (min(gaps), max(gaps), gaps[-1]) == (GAP_NS, PATIENT_NS, PATIENT_NS)
    assert gaps == sorted(gaps)
    # Another one is looked for at once.
    now = LATER + 6 * EAGER_NS
    here.contact.on_message("g2", now)
    here.asked(now + CANDIDATE_TTL_NS)
    assert here.asked(now + CANDIDATE_TTL_NS + CHECK_INTERVAL_NS)


def test_of_many_each_has_its_turn() -> None:
    here = Here("g1", {"g1": "10.0.0.1", **{f"w{n}": f"10.0.1.{n}" for n in range(3 * MAX_ASKED + 1)}})
    asked = [here.asked(LATER + turn * GAP_NS) for turn in range(5)]
    assert max(map(len, asked)) == MAX_ASKED
    assert len({address for each in asked for address in each}) == 3 * MAX_ASKED + 1


def test_another_port_is_named_with_both_values_until_a_message_of_the_node_comes() -> None:
    here = Here()
    here.asked(LATER)
    before = here.strays.revision
    here.strays.arrived(sent_by("g2"), "10.0.0.2", 7950, LATER)
    message = "cluster.port is 7947 on this node (g1) and 7950 on g2: it must be the same on all nodes"
    assert here.problems() == [message]
    assert here.strays.revision > before
    here.contact.on_message("g2", LATER + 1)
    here.asked(LATER + CHECK_INTERVAL_NS)
    assert here.problems() == []


def test_another_family_is_named_with_both() -> None:
    here = Here()
    here.asked(LATER)
    here.strays.arrived(sent_by("w1"), "fd00::3", 7947, LATER)
    [message] = here.problems()
    assert message.startswith(
        "the underlay is IPv4 on this node (g1) and IPv6 on w1, which sends from fd00::3: "
    )


def test_what_is_found_no_more_is_forgotten() -> None:
    here = Here()
    here.asked(LATER)
    here.strays.arrived(sent_by("g2"), "10.0.0.2", 7950, LATER)
    here.strays.refused("10.0.0.2", LATER)
    before = here.strays.revision
    here.asked(LATER + CURRENT_NS + 1)
    assert here.problems() == []
    assert here.strays.unanswered("g2", 7947) == ""
    assert here.strays.revision > before


@pytest.mark.parametrize(
    "datagram", [sent_by("g2", OTHER), sent_by("g2")[:-1], b"", b"x" * 200, sent_by("g9")]
)
def test_no_node_is_named_by_what_is_not_authentic_or_of_no_known_node(datagram: bytes) -> None:
    here = Here()
    here.asked(LATER)
    here.strays.arrived(datagram, "10.0.0.2", 7950, LATER)
    assert here.problems() == []


def meet(one: Endpoint, other: Endpoint, now: int) -> list[bytes]:
    """Let two nodes talk until each knows the other; return what ``one`` has sent."""
    sent, hello = [], encode(Hello())
    for step in range(4):
        at = now + step * SECOND
        sent.append(one.seal(other.name, hello))
        reply = other.open(sent[-1], ADDRESSES[one.name], at).reply
        answer = one.open(reply, ADDRESSES[other.name], at).reply if reply else None
        if answer:
            sent.append(answer)
            other.open(answer, ADDRESSES[one.name], at)
    return sent


def test_no_node_is_named_by_what_was_recorded_before() -> None:
    """A recorded datagram can be sent to any port: it must be newer than all that was received of its sender."""
    here, others = Here(), {"g1": "10.0.0.1", "w1": "10.0.0.3"}
    there, third = Endpoint("g2", 7, KEY, others), Endpoint("w1", 8, KEY, {"g2": "10.0.0.2"})
    recorded = meet(there, here.endpoint, 0)
    meet(there, third, 0)
    here.asked(LATER)
    for datagram in (*recorded, there.seal("w1", encode(Hello()))):
        here.strays.arrived(datagram, "10.0.0.2", 7950, LATER)
        assert here.problems() == []
    newer = there.seal("g1", encode(Hello()))
    # A process that has taken its place makes all of that old.
    restarted = Endpoint("g2", 9, KEY, others)
    before = restarted.seal("g1", encode(Hello()))
    here.strays.arrived(before, "10.0.0.2", 7950, LATER)
    assert len(here.problems()) == 1
    here.strays = Strays(here.contact, here.endpoint)
    here.asked(LATER)
    here.strays.arrived(newer, "10.0.0.2", 7950, LATER)
    assert len(here.problems()) == 1
    here.strays = Strays(here.contact, here.endpoint)
    here.asked(LATER)
    meet(restarted, here.endpoint, LATER)
    for datagram in (newer, before):
        here.strays.arrived(datagram, "10.0.0.2", 7950, LATER)
        assert here.problems() == []


def test_a_node_that_sends_is_not_named() -> None:
    here = Here()
    here.contact.on_message("g2", LATER)
    here.asked(LATER)
    here.strays.arrived(sent_by("g2"), "10.0.0.2", 7950, LATER)
    here.strays.refused("10.0.0.2", LATER)
    assert here.problems() == []
    assert here.strays.unanswered("g2", 7947) == ""


def test_a_refusal_names_address_and_port() -> None:
    here = Here()
    here.asked(LATER)
    here.strays.refused("10.0.0.2", LATER)
    assert here.strays.unanswered("g2", 7947) == "no program listens at UDP port 7947 of 10.0.0.2"
    assert here.strays.unanswered("w1", 7947) == ""
