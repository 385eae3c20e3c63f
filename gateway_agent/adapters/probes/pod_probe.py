"""Send packets as pods of this node would, and receive the answers.

The pods are simulated: :mod:`cni.kernel.netlink.veths` creates an interface for each tag, and this module uses the
other end of it.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from cni.kernel.netlink import veths
from cni.kernel.netlink.conntrack import ct_events
from cni.kernel.netlink.conntrack.ct_events import NewFlows
from cni.kernel.netlink.veths import ProbeVeth

from ...policy.egress_node.pod_probes import Answer, PodAnswer, PodProbe
from .pod_packet import closing, opening, received

ETH_P_ALL = 3
MAX_FRAME_BYTES = 1 << 16
SENDING_S = (0.0, 0.1, 0.3, 0.8, 1.6)
"""Times at which a probe without an answer is sent: the kernel may have to resolve the next hop first."""
TIMEOUT_S = 3.0
"""Seconds to wait: longer than the kernel resolves a next hop before it reports the destination as unreachable."""
PORTS = 20000, 30000
"""Range of source ports, below the ephemeral ports of the kernel."""


class _Pod:
    """One simulated pod, with the socket by which it sends and receives."""

    def __init__(self, veth: ProbeVeth) -> None:
        self.veth = veth
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.bind((veth.device, 0))
            self.router: bytes = raw.getsockname()[4]
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.bind((veth.peer, ETH_P_ALL))

    def fileno(self) -> int:
        return self.socket.fileno()

    def source(self, probe: PodProbe) -> str:
        return self.veth.addresses[6 if ":" in probe.destination else 4]


class PodProber:
    """The sender of probes from this node. Its method blocks; calls are served one at a time."""

    def send(self, probes: Sequence[PodProbe]) -> dict[PodProbe, PodAnswer]:
        """Return the answer to each probe, of :data:`veths.MAX_VETHS` different groups at most.

        Raises OSError and :class:`cni.kernel.errors.KernelError`.
        """
        groups = list(dict.fromkeys(probe.group for probe in probes))
        with contextlib.ExitStack() as stack:
            pods = {group: stack.enter_context(_pod(number, group)) for number, group in enumerate(groups)}
            first = random.randrange(*PORTS)
            numbered = dict(enumerate(probes, first))
            begun = stack.enter_context(ct_events.new_flows(_sources(pods.values())))
            found = _converse(pods, numbered, begun)
            return {
                probe: replace(
                    found.get(port, PodAnswer()),
                    source=(pods[probe.group].source(probe), port),
                    left_as=begun.shown.get((pods[probe.group].source(probe), port)),
                )
                for port, probe in numbered.items()
            }


@contextlib.contextmanager
def _pod(number: int, group: int) -> Iterator[_Pod]:
    # A killed process may have left an interface.
    veths.remove(number)
    veth = veths.add(number, group)
    try:
        pod = _Pod(veth)
        with pod.socket:
            yield pod
    finally:
        veths.remove(number)


def _converse(pods: dict[int, _Pod], numbered: dict[int, PodProbe], begun: NewFlows) -> dict[int, PodAnswer]:
    """Send the probes, and again those without an answer. Return the answers by source port."""
    begin = time.monotonic()
    found: dict[int, PodAnswer] = {}
    for since, until in zip(SENDING_S, (*SENDING_S[1:], TIMEOUT_S), strict=True):
        for port, probe in numbered.items():
            if port not in found:
                pod = pods[probe.group]
                pod.socket.send(opening(probe, pod.source(probe), port, pod.router))
        while len(found) < len(numbered) and (left := begin + until - time.monotonic()) > 0:
            for pod in select.select(list(pods.values()), [], [], left)[0]:
                _receive(pod, numbered, found, time.monotonic() - begin - since)
        begun.read()
    return found


def _sources(pods: Iterable[_Pod]) -> frozenset[str]:
    return frozenset(address for pod in pods for address in pod.veth.addresses.values())


def _receive(pod: _Pod, numbered: dict[int, PodProbe], found: dict[int, PodAnswer], seconds: float) -> None:
    frame, (_, _, kind, *_) = pod.socket.recvfrom(MAX_FRAME_BYTES)
    answer = received(frame) if kind != socket.PACKET_OUTGOING else None
    if answer is None or answer.port not in numbered:
        return
    probe = numbered[answer.port]
    if answer.answer is Answer.ACCEPTED:
        frame = closing(probe, pod.source(probe), answer.port, pod.router, answer.acknowledged)
        pod.socket.send(frame)
    if answer.port not in found:
        found[answer.port] = PodAnswer(answer.answer, answer.sender, max(0.0, seconds) * 1000)
