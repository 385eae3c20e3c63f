"""Which egress nodes are suspect, since when, and when the next one will be."""

from __future__ import annotations

from gateway_agent.lease.voting.failure_detector import FailureDetector
from gateway_agent.lease.voting.members import Member
from gateway_agent.lease.voting.protocol import NEVER

SUSPECT = 150


def detector(**received_at: int) -> FailureDetector:
    found = FailureDetector()
    for name, at in received_at.items():
        found.on_heartbeat(name, Member(at))
    return found


def test_a_node_is_suspect_after_the_time_and_not_at_it() -> None:
    found = detector(g1=0, g2=100)
    assert {*found.alive(SUSPECT, SUSPECT)} == {"g1", "g2"}
    assert {*found.alive(SUSPECT, SUSPECT + 1)} == {"g2"}


def test_a_heartbeat_is_news_only_if_it_says_something_else() -> None:
    found = detector(g1=0)
    assert not found.on_heartbeat("g1", Member(50))
    assert found.on_heartbeat("g1", Member(100, reason="interface eth1 is down"))
    assert found.on_heartbeat("g2", Member(100)), "a node that was never received"
    assert found.get("g1") == Member(100, reason="interface eth1 is down")
    assert found.get("g3") is None


def test_the_next_suspicion_is_that_of_the_node_with_the_oldest_message() -> None:
    found = detector(g1=0, g2=100)
    found.update(SUSPECT, 120)
    assert found.next_suspicion(SUSPECT) == SUSPECT + 1
    assert found.last_suspected_at == {}
    found.update(SUSPECT, SUSPECT + 1)
    assert found.next_suspicion(SUSPECT) == 100 + SUSPECT + 1, "a node that is suspect already needs no wake"
    assert found.last_suspected_at == {"g1": SUSPECT + 1}


def test_a_node_that_is_alive_again_keeps_the_time_of_its_last_suspicion() -> None:
    found = detector(g1=0)
    found.update(SUSPECT, 200)
    found.on_heartbeat("g1", Member(210))
    found.update(SUSPECT, 220)
    assert found.last_suspected_at == {"g1": 200}
    assert found.next_suspicion(SUSPECT) == 210 + SUSPECT + 1


def test_a_node_that_is_no_egress_node_any_more_is_forgotten() -> None:
    found = detector(g1=0, g2=0)
    found.update(SUSPECT, 200)
    found.retain(["g2"])
    assert found.get("g1") is None
    assert {*found.last_suspected_at} == {"g2"}


def test_without_nodes_there_is_no_suspicion() -> None:
    assert detector().next_suspicion(SUSPECT) > NEVER
