"""Floods of the lease keepers' port: no lease moves, and a failover beside one is as quick as ever."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..lab import topology
from ..lab.lab import SELECTED, Lab
from ..lab.local_user import as_local_user
from ..lab.packets import frame, mac_of, udp
from ..lab.pod import Pod
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

KEEPER_PORT = 7947
GARBAGE = b"x" * 200
SECONDS = 3.0
"""Of each flood: many times a lease."""
BOUND = 2.0
"""Seconds until another node serves, on a machine that is busy with the flood itself."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_flood", topology.separate(workers=1)) as made:
        yield made


@pytest.fixture(scope="module")
def pod(lab: Lab) -> Pod:
    return lab.nodes["w1"].pod("backend-1", BACKEND)


def by_a_pod(lab: Lab, pod: Pod) -> tuple[socket.socket, list[Callable[[socket.socket], object]]]:
    targets = [(node.host.ip, KEEPER_PORT) for node in lab.nodes.values()]
    sock = pod.machine.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return sock, [lambda s, to=to: s.sendto(GARBAGE, to) for to in targets]  # type: ignore[misc]


def by_a_local_user(lab: Lab, _: Pod) -> tuple[socket.socket, list[Callable[[socket.socket], object]]]:
    """From the worker, by the worker's address."""
    targets = [(node.host.ip, KEEPER_PORT) for node in lab.nodes.values() if node.host.is_egress]
    sock = as_local_user(lab.nodes["w1"].machine, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    return sock, [lambda s, to=to: s.sendto(GARBAGE, to) for to in targets]  # type: ignore[misc]


def by_a_forger(lab: Lab, _: Pod) -> tuple[socket.socket, list[Callable[[socket.socket], object]]]:
    """From a machine of the LAN that writes every egress node's address into its packets to all others."""
    egress = [node for node in lab.nodes.values() if node.host.is_egress]
    sock = lab.machines["lan"].socket(socket.AF_PACKET, socket.SOCK_RAW)
    sends: list[Callable[[socket.socket], object]] = []
    for target in egress:
        name = target.host.interfaces[0].name
        port = f"{target.name}-{name}"
        for source in egress:
            if source is not target:
                packet = udp(source.host.ip, target.host.ip, KEEPER_PORT, GARBAGE)
                data = frame(mac_of(target.machine, name), "02:00:00:00:00:01", packet)
                sends.append(lambda s, d=data, p=port: s.sendto(d, (p, 0)))  # type: ignore[misc]
    return sock, sends


FORGED = "nodes' addresses, forged"
FLOODS = {"a pod": by_a_pod, "a local user": by_a_local_user, FORGED: by_a_forger}


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
    """The forged datagrams that reached a lease daemon."""
    return sum(node.agent.status()["counters"]["bad_mac"] for node in lab.nodes.values())


def epochs(lab: Lab) -> set[tuple[str, int]]:
    """The master and its epoch, by the word of each agent."""
    entries = [entry for node in lab.nodes.values() for entry in node.agent.status()["egressIPs"]]
    return {(entry["master"], entry["epoch"]) for entry in entries}


@pytest.mark.parametrize("kind", FLOODS)
def test_no_lease_moves_and_a_failover_is_quick(lab: Lab, pod: Pod, kind: str) -> None:
    master = lab.wait_settled(GATEWAY, 40)
    before, refused_before, begun = epochs(lab), refused(lab), time.monotonic()
    with flooding(lab, pod, kind) as count:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            assert pod.request(SELECTED).address == lab.nodes[master].host.egress_ip
        assert epochs(lab) == before
        lab.cut(master)
        try:
            until(lambda: lab.master(GATEWAY, "w1") not in ("", master), "another node serves", BOUND)
        finally:
            lab.mend(master)
    # A forger reaches each of three daemons by two nodes' addresses, at the rate of a node; all others reach none.
    senders = 6 if kind == FORGED else 0
    passed = senders * (250 + 500 * (time.monotonic() - begun))
    assert refused(lab) - refused_before <= passed
    assert count[0] > max(10_000, passed), "there was a flood"
