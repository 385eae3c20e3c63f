"""Real lease daemons, and a holder of the key that sends them whatever it likes.

``FUZZ_SECONDS=600 FUZZ_SEED=7 ./install.sh test tests/netns/test_hostile_messages.py`` goes on for minutes. What is
sent follows from the seed; what the daemons are doing meanwhile does not.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_agent.lease.ipc import LOG
from gateway_agent.lease.messages.keys import Key, Keyring
from gateway_agent.lease.messages.wire import MAX_DATAGRAM_BYTES, Endpoint
from tests.fuzz.wire import bodies, encoded, hostile
from tests.lab.waiting import until

from .keeper_cluster import NODES, ONE, PORT, SECRET, Cluster, Node

SECONDS = float(os.environ.get("FUZZ_SECONDS", "10"))
SEED = int(os.environ.get("FUZZ_SEED", "10"))
ATTACKER = "g3"
"""Node in whose place there is the attacker: the other two are a majority without it."""
CONFIG_INTERVAL_S = 0.2
"""Seconds from one sign of life of the daemons' agent to the next."""
PAUSE_S = 0.0005
"""Seconds from one message to the next."""


class Attacker:
    """The socket and the key of a node."""

    def __init__(self, node: Node) -> None:
        peers = {name: address for name, address in NODES.items() if name != ATTACKER}
        self.sock = node.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.bind((NODES[ATTACKER], PORT))
        self.endpoint = Endpoint(ATTACKER, random.getrandbits(60), Keyring(Key.parse(SECRET)), peers)

    def send(self, target: str, body: object) -> bool:
        """Send a message of any content, authentic and fresh. Returns False if it has no form."""
        raw = encoded(body)
        if raw is None:
            return False
        with contextlib.suppress(OSError):
            self.sock.sendto(self.endpoint.seal(target, raw), (NODES[target], PORT))
        return True

    def listen(self) -> None:
        """Learn who the others are, and answer them as a node does: else nothing is fresh."""
        with contextlib.suppress(BlockingIOError):
            while True:
                datagram, (address, _) = self.sock.recvfrom(MAX_DATAGRAM_BYTES)
                opened = self.endpoint.open(datagram, address, time.monotonic_ns())
                if opened.reply is not None:
                    self.sock.sendto(opened.reply, (address, PORT))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if os.geteuid():
        pytest.skip("needs root: network namespaces")
    made = Cluster(tmp_path)
    try:
        made.lay_out()
        for node in honest(made):
            node.start()
        yield made
    finally:
        made.delete()


def honest(cluster: Cluster) -> list[Node]:
    return [node for name, node in cluster.nodes.items() if name != ATTACKER]


def master(cluster: Cluster) -> str:
    """Return the master that both daemons follow, itself among them; empty if there is none."""
    for node in honest(cluster):
        node.send_config()
    said = {node.follows() for node in honest(cluster)}
    masters = {node.name for node in honest(cluster) if node.is_master()}
    return masters.pop() if len(masters) == 1 and said == masters else ""


def logged(cluster: Cluster) -> str:
    """Return the reasons in the daemons' logs."""
    return "\n".join((node.run_dir / LOG).read_text() for node in honest(cluster))


def test_whatever_a_holder_of_the_key_sends_real_daemons_live_and_serve(cluster: Cluster) -> None:
    until(lambda: master(cluster), "one of two is master", seconds=20)
    pids = [node.pid() for node in honest(cluster)]
    attacker, rng, sent = Attacker(cluster.nodes[ATTACKER]), random.Random(SEED), 0
    with contextlib.closing(attacker.sock):
        end, send_at = time.monotonic() + SECONDS, 0.0
        while (now := time.monotonic()) < end:
            attacker.listen()
            body = hostile(rng.choice(bodies([ONE], rng)), rng)
            sent += attacker.send(rng.choice(honest(cluster)).name, body)
            if now >= send_at:
                send_at = now + CONFIG_INTERVAL_S
                for node in honest(cluster):
                    node.send_config()
                    node.read_state()
            time.sleep(PAUSE_S)  # a flood would be another test
    message = f"seed {SEED}, {sent} messages: {logged(cluster)}"
    assert [node.namespace.pids() for node in honest(cluster)] == [[pid] for pid in pids], message
    until(lambda: master(cluster), f"one of two is master again; {message}", seconds=20)
    counters = [node.state.counters for node in honest(cluster) if node.state is not None]
    assert all(found["accepted"] > sent / 20 for found in counters), "they were authentic and fresh"
    assert all(found["malformed"] + found["out_of_bounds"] for found in counters)
    assert "could not be handled" not in logged(cluster), message
    assert not any("could not be handled" in node.problems() for node in honest(cluster)), message
