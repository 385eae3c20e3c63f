"""A machine with the fence of two virtual addresses, and another one on the same wire."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from cni.kernel import ids
from cni.kernel.nftables import nft
from gateway_agent.gateway_rules.fence import fence_nft
from gateway_agent.lease_daemon.kernel.vip_fence import Fence
from tests.lab.namespace import Namespace

from .link import VIRTUAL, VIRTUAL6, Wire, Witness, wire

BOTH = (VIRTUAL, VIRTUAL6)
LONG = 3_600_000_000_000
SHORT = 200_000_000
TICK = 8_000_000
"""Nanoseconds by which an expiry may be late: two ticks of the kernel's timer (250 Hz)."""
TABLE = f"netdev {ids.NFT_FENCE}"
TEXT = fence_nft(BOTH, ["eth1"])


@pytest.fixture(scope="module")
def shared() -> Iterator[Wire]:
    with wire("egwfe") as made:
        made.far.ip(f"neighbour replace {VIRTUAL} lladdr {made.mac(made.near)} dev eth1")
        made.near.ip(
            f"address add {VIRTUAL}/32 dev eth1 scope host", f"address add {VIRTUAL6}/128 dev eth1 nodad"
        )
        made.near.ip(f"neighbour replace 172.16.0.2 lladdr {made.mac(made.far)} dev eth1")
        made.near.ip(f"neighbour replace 2001:db8::2 lladdr {made.mac(made.far)} dev eth1")
        yield made


@pytest.fixture
def line(shared: Wire) -> Wire:
    """Return the fence stands on ``near``, and is closed."""
    shared.near.inside(lambda: nft.apply(TEXT))
    return shared


@pytest.fixture
def fence(line: Wire) -> Iterator[Fence]:
    made = line.near.inside(Fence)
    yield made
    made.close_socket()


@pytest.fixture(params=["in place", "by deleting and adding"])
def each_variant(request: pytest.FixtureRequest, fence: Fence) -> Fence:
    """Return the fence with each way of refreshing an element; kernels before 6.12 delete and add it."""
    fence.ticket(99, SHORT)
    if request.param != "in place":
        fence._in_place = False
    return fence


def opened(machine: Namespace) -> set[str]:
    """Which elements the open sets have."""
    found: set[str] = set()
    for name in (ids.FENCE_OPEN4, ids.FENCE_OPEN6):
        answer = json.loads(machine.run("nft", "-j", "list", "set", *TABLE.split(), name))
        found |= {item["elem"]["val"] for item in answer["nftables"][1]["set"].get("elem", [])}
    return found


def tickets(machine: Namespace) -> int:
    answer = json.loads(machine.run("nft", "-j", "list", "set", *TABLE.split(), ids.FENCE_TICKETS))
    return len(answer["nftables"][1]["set"].get("elem", []))


def let_speak(fence: Fence, number: int, lifetime: int = LONG) -> bool:
    fence.ticket(number, SHORT)
    return fence.open(number, BOTH, lifetime)


class Flow:
    """Numbered datagrams from the virtual address, one each 0.5 ms, and which of them arrive."""

    def __init__(self, line: Wire) -> None:
        self._witness = Witness(line.far)
        self._socket = line.near.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((VIRTUAL, 0))
        self._end = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Flow:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._socket.close()

    def stop(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _send(self) -> None:
        while not self._end.wait(0.0005):
            with contextlib.suppress(OSError):
                self._socket.sendto(struct.pack("!8sQ", b"numbered", self.sent), ("172.16.0.2", 9))
            self.sent += 1

    def arrived(self) -> list[tuple[int, int]]:
        """Return number and time of arrival of each frame."""
        frames = ((at, frame[42:58]) for at, frame in self._witness.frames())
        return [(struct.unpack("!8xQ", data)[0], at) for at, data in frames if data.startswith(b"numbered")]
