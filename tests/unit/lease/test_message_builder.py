"""Whole messages of a node about itself."""

from __future__ import annotations

import msgspec

from gateway_agent.lease.ipc import EgressIPSpec
from gateway_agent.lease.message_builder import STOPPING, SUBSCRIBE_NS

from .test_node_state import LEASE, NOW, VOTERS, config, node


def test_a_heartbeat_without_a_request_asks_for_nothing() -> None:
    state = node()
    heartbeat = state.message_builder.heartbeat(state.config, False, NOW)
    assert (heartbeat.seq, heartbeat.asked, heartbeat.claims) == (0, (), ())
    assert (heartbeat.voters, heartbeat.duration_ns, heartbeat.reason) == (VOTERS, LEASE, "")
    assert heartbeat.isolated, "no voter has answered yet"


def test_a_node_that_ends_says_so_and_one_that_is_none_any_more_too() -> None:
    state = node()
    assert state.message_builder.heartbeat(state.config, True, NOW).reason == STOPPING
    worker = node(config(egress="bc"))
    heartbeat = worker.message_builder.heartbeat(worker.config, False, NOW)
    assert heartbeat.reason == "no egress node any more"
    assert not heartbeat.isolated


def test_a_heartbeat_names_why_it_cannot_serve_only_what_it_is_eligible_for() -> None:
    specs = (
        EgressIPSpec("mine", "gw", "", ("a",), reason="eth1 is down"),
        EgressIPSpec("ready", "gw", "", ("a",), ready=True),
        EgressIPSpec("others", "gw", "", ("b",), reason="not eligible"),
    )
    state = node(msgspec.structs.replace(config(), egress=specs))
    state.ownership.configure(specs, state.timers, False, NOW)
    heartbeat = state.message_builder.heartbeat(state.config, False, NOW)
    assert heartbeat.unready == {"mine": "eth1 is down"}
    assert heartbeat.known == ("mine", "ready", "others")


def test_a_node_that_learns_subscribes_often_and_nodes_do_not_subscribe_together() -> None:
    learning, settled = node(memory=None), node()
    assert learning.message_builder.subscription_pause(learning.config, 0) <= 2 * LEASE // 5
    pauses = {settled.message_builder.subscription_pause(settled.config, seed) for seed in range(20)}
    assert len(pauses) > 10
    assert all(3 * SUBSCRIBE_NS // 4 < pause <= SUBSCRIBE_NS for pause in pauses)
