"""The knowledge of one lease node: what another configuration changes, and what is to be stored."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway_agent.lease.ipc import EgressIPSpec, KeeperConfig, Peer
from gateway_agent.lease.messages.bodies import Hello, Subscribe, encode
from gateway_agent.lease.messages.keys import Key, Keyring
from gateway_agent.lease.node_state import NodeState, Remember
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND, Claim
from gateway_agent.lease.voting.voter_node import VoteRequest
from gateway_agent.lease.voting.voter_set import Memory, VoterSet

LEASE = 250 * MILLISECOND
KEYS = Keyring(Key.parse(b"only for this test"))
VOTERS = VoterSet(1, ("a", "b", "c"))
MEMORY = Memory(VOTERS, None, (0, ""), LEASE, granted_until=0, learned_at=0)
NOW = 100 * SECOND


def config(*names: str, me: str = "a", egress: str = "abc", **changes: Any) -> KeeperConfig:
    peers = tuple(
        Peer(name, f"10.0.0.{number}", name in egress) for number, name in enumerate(names or "abc", 1)
    )
    return msgspec.structs.replace(KeeperConfig(me, 7947, "", LEASE // 5, LEASE, False, peers, ()), **changes)


def node(of: KeeperConfig | None = None, memory: Memory | None = MEMORY) -> NodeState:
    chosen = of or config()
    state = NodeState(chosen, KEYS, 1, memory, 0)
    state.configure(chosen, KEYS, NOW)
    return state


def meet(one: NodeState, other: NodeState) -> None:
    """Let two nodes hear each other: only then is a message of one known to be fresh."""
    datagram: bytes | None = one.endpoint.seal(other.me, encode(Hello()))
    sender, receiver = one, other
    while datagram is not None:
        address = receiver.endpoint.peers[sender.me]
        datagram = receiver.endpoint.open(datagram, address, NOW).reply
        sender, receiver = receiver, sender


def test_another_configuration_replaces_the_peers_and_keeps_this_node_out() -> None:
    state = node()
    assert state.endpoint.peers == {"b": "10.0.0.2", "c": "10.0.0.3"}
    state.configure(config("a", "c"), KEYS, NOW)
    assert state.endpoint.peers == {"c": "10.0.0.2"}
    assert state.egress_nodes == ("a", "c")


def test_a_node_that_no_gateway_matches_is_no_egress_node_and_never_isolated() -> None:
    state = node(config(egress="bc"))
    assert not state.is_egress
    assert not state.isolated(NOW)
    assert node().isolated(NOW), "it has heard no voter"


def test_isolation_is_news_once() -> None:
    state = node()
    revision = state.due.revision
    assert [state.watch_isolation(NOW), state.watch_isolation(NOW)] == [True, False]
    for voter in "abc":
        state.quorum_view.answer(voter, NOW)
    assert state.watch_isolation(NOW)
    assert state.due.revision == revision + 2


def test_a_grant_is_stored_once_and_again_with_the_next_one() -> None:
    state = node()
    effects: list[Any] = []

    def stored(now: int, epoch: int) -> list[Any]:
        effects.clear()
        state.voter_node.vote("b", 1, VoteRequest(1, LEASE, VOTERS, (Claim("x", epoch),), None), LEASE, now)
        state.remember(effects)
        return list(effects)

    [first] = stored(NOW, 1)
    assert isinstance(first, Remember)
    assert first.memory.granted_until == NOW + LEASE
    state.remember(effects)
    assert effects == [first], "nothing has changed since"
    [second] = stored(NOW + LEASE, 1)
    assert second.memory.granted_until == NOW + 2 * LEASE


def test_a_node_that_still_learns_stores_nothing() -> None:
    effects: list[Any] = []
    node(memory=None).remember(effects)
    assert effects == []


def test_a_subscription_names_the_carried_egress_ips_only_while_the_agent_is_there() -> None:
    specs = (EgressIPSpec("x", "gw", "", ("a",)), EgressIPSpec("y", "gw", "", ("a",), carries=False))
    state, other = node(msgspec.structs.replace(config(), egress=specs)), node(config(me="b"))
    meet(state, other)
    assert state.carried == {"x"}

    def carries(now: int) -> tuple[str, ...] | None:
        state.outbox.take()
        state.subscribe(["b"], now)
        [sent] = state.outbox.take()
        body = other.endpoint.open(sent.data, "10.0.0.1", now).body
        assert isinstance(body, Subscribe)
        return body.carries

    assert carries(NOW) is None, "no agent has said anything yet"
    state.lifecycle.agent_seen(NOW)
    assert carries(NOW) == ("x",)


def test_wall_time_is_not_known_until_it_is_set() -> None:
    state = node()
    assert state.wall(NOW) == 0
    state.ownership.wall_offset_ns = 5
    assert state.wall(NOW) == NOW + 5
