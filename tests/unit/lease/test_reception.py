"""What one message changes at the node that gets it, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway_agent.lease.messages.bodies import Answer, Body, Heartbeat, Subscribe
from gateway_agent.lease.messages.wire import Opened
from gateway_agent.lease.node_state import NodeState
from gateway_agent.lease.reception import Reception
from gateway_agent.lease.voting.protocol import HELD, MILLISECOND, VOTERS, Claim
from gateway_agent.lease.voting.voter_set import VoterSet

from .test_node_state import LEASE, NOW, config, meet, node
from .test_node_state import VOTERS as SET


@dataclass
class Pair:
    """Node ``a``, which gets messages, and ``b``, which can open what ``a`` sends to it."""

    a: NodeState = field(default_factory=node)
    b: NodeState = field(default_factory=lambda: node(config(me="b")))

    def __post_init__(self) -> None:
        meet(self.a, self.b)
        self.reception = Reception(self.a, NOW)

    def take(self, body: Body, now: int = NOW, incarnation: int = 1) -> list[Body]:
        """Let ``a`` take a message of ``b`` in. Return what it sends to ``b``."""
        self.a.outbox.take()
        self.reception.take(Opened("b", incarnation, body), now)
        opened = [self.b.endpoint.open(sent.data, "10.0.0.1", now) for sent in self.a.outbox.take()]
        return [each.body for each in opened if each.body is not None]


def heartbeat(*claims: Claim, voters: VoterSet = SET, seq: int = 1) -> Heartbeat:
    return Heartbeat(seq, LEASE, voters, None, ("a",), claims, (), False, "", {}, (), None)


def answers(sent: list[Body]) -> list[Answer]:
    return [body for body in sent if isinstance(body, Answer)]


def test_a_request_is_answered_with_the_voter_set_and_the_grants() -> None:
    [answer] = answers(Pair().take(heartbeat(Claim("x", 1), seq=7)))
    assert (answer.seq, answer.voters, answer.granted) == (7, SET, ("x",))


def test_a_request_under_another_voter_set_gets_nothing_and_learns_the_one_in_force() -> None:
    [answer] = answers(Pair().take(heartbeat(Claim("x", 1), voters=VoterSet(1, ("b", "c", "d")))))
    assert [refusal.why for refusal in answer.refused] == [VOTERS]
    assert answer.voters == SET


def test_a_heartbeat_that_asks_other_voters_is_not_answered() -> None:
    pair = Pair()
    others = Heartbeat(1, LEASE, SET, None, ("c",), (Claim("x", 1),), (), False, "", {}, (), None)
    assert answers(pair.take(others)) == []
    member = pair.a.failure_detector.get("b")
    assert member is not None
    assert member.received_at == NOW, "though it is heard"


def test_what_another_node_holds_is_refused_until_its_grant_ends() -> None:
    pair = Pair()
    pair.a.voter_node.vote("c", 1, heartbeat(Claim("x", 1)).vote_request, LEASE, NOW)
    [answer] = answers(pair.take(heartbeat(Claim("x", 2)), NOW + 100 * MILLISECOND))
    [refusal] = answer.refused
    assert (refusal.why, refusal.remaining_ns) == (HELD, LEASE - 100 * MILLISECOND)
    [later] = answers(pair.take(heartbeat(Claim("x", 2)), NOW + LEASE))
    assert later.granted == ("x",)


def test_a_longer_lease_of_another_node_is_remembered() -> None:
    """A node that starts stays silent for the longest lease that it knows of."""
    pair = Pair()
    longer = Heartbeat(0, 2 * LEASE, SET, None, (), (), (), False, "", {}, (), None)
    pair.take(longer)
    assert pair.a.quorum_view.longest_ns == 2 * LEASE


def test_a_subscriber_is_answered_with_a_heartbeat_that_asks_for_nothing() -> None:
    [answer] = Pair().take(Subscribe(SET, None, ()))
    assert isinstance(answer, Heartbeat)
    assert (answer.voters, answer.claims, answer.asked) == (SET, (), ())
