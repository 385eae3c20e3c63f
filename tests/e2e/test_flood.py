"""Floods of the lease daemons' port: no lease moves, and a failover beside all of them is as quick as without."""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.lab import SELECTED, Lab
from ..lab.local_user import as_local_user
from ..lab.node import Node
from ..lab.packets import frame, mac_of, udp
from ..lab.pod import Pod
from ..lab.silence import longest
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from .conftest import GATEWAY, settled

KEEPER_PORT = 7947
GARBAGE = bytes(16) + b"\x98" * 184
"""Datagram with the length and the first byte of a message: a daemon that gets it computes the keyed hash."""
DURATION_S = 3.0
"""Seconds of each flood: many times a lease."""
BUSY_S = 20.0
"""Seconds of a flood on a busy machine."""
MANY = 10_000
"""Datagrams of a flood."""
BOUND = 5.0
"""Seconds until another node serves."""
ROUNDS = 3
"""Number of failovers of each kind."""
WORSE_FACTOR = 1.5
"""Largest ratio of the silence to that of a failover without a flood: the machine is busy with the floods themselves.
"""

MOST_SILENT_MS = 1000
"""Longest silence where a virtual address moves: the lease of 250 ms, and the election on a machine that is busy with
the flood."""

Flood = tuple[socket.socket, list[Callable[[socket.socket], object]]]
"""A socket and the functions that send by it."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_flood", topology.separate(workers=1)) as made:
        yield made


def by_a_pod(lab: Lab, pod: Pod) -> Flood:
    targets = [(node.host.ip, KEEPER_PORT) for node in lab.nodes.values()]
    sock = pod.machine.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return sock, [lambda s, to=to: s.sendto(GARBAGE, to) for to in targets]  # type: ignore[misc]


def by_a_local_user(lab: Lab, _: Pod) -> Flood:
    """From the worker, by the worker's address."""
    targets = [(node.host.ip, KEEPER_PORT) for node in egress_nodes(lab)]
    sock = as_local_user(lab.nodes["w1"].machine, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    return sock, [lambda s, to=to: s.sendto(GARBAGE, to) for to in targets]  # type: ignore[misc]


def by_a_machine(lab: Lab, _: Pod) -> Flood:
    """From a machine of the LAN, by an address of its own that no node has."""
    return by_frames(lab, lambda target: ["10.0.0.99"])


def by_a_forger(lab: Lab, _: Pod) -> Flood:
    """From a machine of the LAN that writes every egress node's address into its packets to all others."""
    return by_frames(lab, lambda target: [node.host.ip for node in egress_nodes(lab) if node is not target])


def egress_nodes(lab: Lab) -> list[Node]:
    return [node for node in lab.nodes.values() if node.host.is_egress]


def by_frames(lab: Lab, sources: Callable[[Node], list[str]]) -> Flood:
    """Write frames with these source addresses to each egress node."""
    sock = lab.machines["lan"].socket(socket.AF_PACKET, socket.SOCK_RAW)
    sends: list[Callable[[socket.socket], object]] = []
    for target in egress_nodes(lab):
        name = target.host.interfaces[0].name
        port = f"{target.name}-{name}"
        for source in sources(target):
            packet = udp(source, target.host.ip, KEEPER_PORT, GARBAGE)
            data = frame(mac_of(target.machine, name), "02:00:00:00:00:01", packet)
            sends.append(lambda s, d=data, p=port: s.sendto(d, (p, 0)))  # type: ignore[misc]
    return sock, sends


FORGED = "nodes' addresses, forged"
FLOODS = {"a pod": by_a_pod, "a local user": by_a_local_user, "a machine": by_a_machine, FORGED: by_a_forger}


@contextmanager
def flooding(lab: Lab, pod: Pod, kind: str) -> Iterator[list[int]]:
    """Send while the block runs; the list gets the number of datagrams at its end."""
    end, count = threading.Event(), [0]
    sock, sends = FLOODS[kind](lab, pod)

    def go() -> None:
        while not end.is_set():
            for send in sends * 40:
                with contextlib.suppress(OSError):
                    send(sock)
                count[0] += 1
            end.wait(0.001)  # else the sender itself takes a processor from the lab

    sender = threading.Thread(target=go)
    sender.start()
    try:
        yield count
    finally:
        end.set()
        sender.join()
        sock.close()


def refused(lab: Lab) -> int:
    """Return the forged datagrams that reached a lease daemon."""
    counters = [node.agent.status()["counters"] for node in lab.nodes.values()]
    return sum(counted[name] for counted in counters for name in ("bad_mac", "unknown_address", "malformed"))


def epochs(lab: Lab) -> set[tuple[str, int]]:
    """Return the master and its epoch, by the word of each agent."""
    entries = [entry for node in lab.nodes.values() for entry in node.agent.status()["egressIPs"]]
    return {(entry["master"], entry["epoch"]) for entry in entries}


@pytest.mark.parametrize("kind", FLOODS)
def test_no_lease_moves(lab: Lab, pod: Pod, kind: str) -> None:
    master = lab.wait_settled(GATEWAY, 40)
    before, refused_before, begun = epochs(lab), refused(lab), time.monotonic()
    # A forger reaches each of three daemons by two nodes' addresses, at the rate of a node; all others reach none.
    senders = 6 if kind == FORGED else 0

    def allowed() -> float:
        """Return how many of the datagrams so far may have reached a daemon."""
        return senders * (250 + 500 * (time.monotonic() - begun))

    with flooding(lab, pod, kind) as count:
        # On a busy machine it takes longer until that many have been sent.
        while time.monotonic() < begun + DURATION_S or count[0] < MANY:
            assert time.monotonic() < begun + BUSY_S, f"{count[0]} datagrams are no flood"
            assert pod.request(SELECTED).address == lab.nodes[master].host.egress_ip
        assert epochs(lab) == before
    assert refused(lab) - refused_before <= allowed()


def test_a_failover_beside_all_floods_is_as_quick_as_without(lab: Lab, pod: Pod) -> None:
    """With and without take turns, so that what else the machine does hits both alike."""
    silences: dict[bool, list[float]] = {False: [], True: []}
    for flooded in (False, True) * ROUNDS:
        silences[flooded].append(failover(lab, pod, list(FLOODS) if flooded else []))
    assert statistics.median(silences[True]) <= statistics.median(silences[False]) * WORSE_FACTOR, silences


def failover(lab: Lab, pod: Pod, floods: list[str]) -> float:
    """Cut the master off beside these floods, and return how long the pod had no answers, in milliseconds."""
    master = lab.wait_settled(GATEWAY, 40)
    with contextlib.ExitStack() as stack:
        counts = [stack.enter_context(flooding(lab, pod, kind)) for kind in floods]
        probing = stack.enter_context(lab.probing(pod))
        lab.cut(master)
        try:
            until(lambda: lab.master(GATEWAY, "w1") not in ("", master), "another node serves", BOUND)
            silence = longest(probing.stop())
        finally:
            lab.mend(master)
    assert silence.ended
    assert all(count[0] > 1000 for count in counts), "there were floods"
    return silence.milliseconds


@pytest.fixture(scope="module")
def virtual_pod(lab: Lab, pod: Pod) -> Pod:
    """Return the pod, for which a virtual address has taken the place of basic mode."""
    lab.publish("objects", documents.virtual_ip([VIRTUAL], GATEWAY))
    until(
        lambda: pod.request(SELECTED, 0.3).address == VIRTUAL, "the gateway serves by its virtual address", 40
    )
    return pod


@pytest.mark.parametrize("kind", FLOODS)
def test_a_virtual_address_moves_beside_each_flood(lab: Lab, virtual_pod: Pod, kind: str) -> None:
    """The address moves within the time of the lease, to one node, and the outside sees no other address."""
    with lab.capture() as capture:
        assert failover(lab, virtual_pod, [kind]) < MOST_SILENT_MS
        served = lab.wait_settled(GATEWAY, 40)
        assert virtual_pod.request(SELECTED).address == VIRTUAL
        assert capture.sources(SELECTED) == {VIRTUAL}
    until(
        lambda: [name for name, node in lab.nodes.items() if node.has(VIRTUAL)] == [served],
        "one node has it",
        10,
    )
