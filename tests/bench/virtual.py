"""Failures of a master that holds a virtual address: silence of a flow, owners on the wire, wrong addresses.

The observers (:mod:`tests.lab.observing`) try on every egress node to speak as the virtual address with raw frames
each half millisecond, whatever the agents think. A wall clock that is set back is a test of its own
(``tests/e2e/test_clock.py``): it needs another way of starting the agents.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..lab import documents, frames
from ..lab.capture import Capture
from ..lab.flow import Flow
from ..lab.lab import SELECTED, Lab
from ..lab.observing import Observers
from ..lab.overlap import longest_overlap, overlaps, takeovers
from ..lab.pod import Pod
from ..lab.silence import longest
from ..lab.topology import VIRTUAL, Host, Interface
from ..lab.waiting import NotInTime, until
from .failures import FAILURES, OBSERVED_S, Failure

FROZEN_S = 10.0
"""Seconds of SIGSTOP until a master is resumed."""
RECOVERY_S = 5.0
"""Seconds after the end of each fault by which exactly one node speaks for the address."""
ALONE_MS = 200.0
"""Milliseconds for which a node must have spoken alone to count as the only one."""
AFTERWARDS_S = 0.25
"""Seconds that are watched after the end of each fault, at least: a node that comes back has spoken by then."""
LAST_ANSWERS_S = 0.1
"""Seconds that the last answers of a flow may take, in a bench: they take less than one where all is well."""
MAX_OBSERVER_PAUSE_MS = 50.0
"""Longest pause of an observer in milliseconds: after a longer one a shorter overlap might have been missed."""
INTRUDER = Host("intruder", (Interface("eth0", "egress", "172.16.0.200/24"),))


@dataclass(frozen=True)
class VirtualRun:
    """What one failure did to a flow through a virtual address."""

    failure: str
    before: str
    after: str
    """Name of the only node that could speak at the end; empty where none or several could."""
    silence: float
    """The longest silence of an open flow, milliseconds."""
    lost: int
    """Datagrams of that flow that were lost, there or back."""
    overlap: float
    """The longest time in which two nodes could speak for the address, milliseconds; 0: none at all."""
    takeovers: int
    gap: float
    """The longest time between the last frame of an old owner and the first of a new one, milliseconds."""
    wrong: tuple[str, ...]
    """Other addresses from which packets of the selected pod arrived."""
    blind: float
    """The longest pause of an observer, milliseconds."""


def prepare(
    lab: Lab, gateway: str, addresses: Sequence[str] = (VIRTUAL,), connection_sync: bool = False
) -> None:
    """Start the agents with one gateway and one policy; returns when a master is settled."""
    lab.publish_nodes()
    objects = documents.virtual_ip(addresses, gateway, connection_sync=connection_sync)
    lab.publish("objects", objects)
    lab.start_agents()
    lab.wait_settled(gateway, 40)


def egress_nodes(lab: Lab) -> list[str]:
    return [node.name for node in lab.nodes.values() if node.host.is_egress]


def measure(lab: Lab, gateway: str, pod: Pod, failure: Failure, address: str = VIRTUAL) -> VirtualRun:
    """Lets a failure happen, waits until new connections pass again, heals it.

    Raises :class:`tests.lab.waiting.NotInTime` if they do not in time, or if not exactly one node speaks
    for the address :data:`RECOVERY_S` seconds after the end.
    """
    before = lab.wait_settled(gateway, 40)
    with Observers(lab, egress_nodes(lab), [address]) as observers:
        return watch(lab, gateway, pod, failure, before, observers)


def watch(
    lab: Lab,
    gateway: str,
    pod: Pod,
    failure: Failure,
    before: str,
    observers: Observers,
    observed: float = OBSERVED_S,
    moment: Callable[[], None] = lambda: None,
) -> VirtualRun:
    """As :func:`measure`, with observers of one address that are there already; ``before`` is the master.

    ``observed``: seconds that are watched, at least. ``moment``: returns when the failure is to strike.
    """
    (address,) = observers.addresses
    observers.forget()
    with (
        lab.capture() as capture,
        Flow(pod.machine, lab.directory / "flow.log", SELECTED, late=LAST_ANSWERS_S) as flow,
    ):
        until(lambda: len(capture.packets(SELECTED)) > 100, "the flow arrives", 5)
        until(lambda: observers.owners(50).get(address) == (before,), f"only {before} speaks", 5)
        observers.attempts()
        moment()
        struck = time.monotonic()
        try:
            failure.strike(lab, before)
            until(lambda: time.monotonic() - struck > observed, "the time of observation is over")
            until(
                partial(_passes, lab, gateway, pod, address, failure, before),
                f"{failure.name}: traffic passes",
            )
        finally:
            failure.heal(lab, before)
        after = _only_owner(observers, address, failure)
        silence = longest(flow.stop())
        attempts = observers.attempts()
        received = observers.frames()
        wrong = _wrong(capture, address)
    changes = takeovers(received)
    return VirtualRun(
        failure.name,
        before,
        after,
        silence.milliseconds,
        silence.lost,
        longest_overlap(overlaps(received)),
        len(changes),
        max((change.gap for change in changes), default=0.0),
        wrong,
        max(each.pause for each in attempts.values()),
    )


def problems(failure: Failure, run: VirtualRun, bound: float) -> list[str]:
    """Return the errors of a run; empty if it is good. ``bound``: allowed milliseconds of silence."""
    found = []
    if run.overlap:
        found.append(f"two owners for {run.overlap:.1f} ms")
    if run.wrong:
        found.append(f"packets left by {', '.join(run.wrong)}")
    if run.silence > bound:
        found.append(f"silent for {run.silence:.0f} ms, more than {bound:.0f}")
    if not failure.silent and run.lost:
        found.append(f"{run.lost} datagrams were lost, though none should be")
    if failure.moves == (run.after == run.before):
        found.append(f"the owner was {run.before} and is {run.after}")
    if run.blind > MAX_OBSERVER_PAUSE_MS:
        found.append(f"an observer paused for {run.blind:.0f} ms")
    return found


def _passes(lab: Lab, gateway: str, pod: Pod, address: str, failure: Failure, before: str) -> bool:
    master = lab.master(gateway, asked="w1")
    if not master or (master != before) != failure.moves:
        return False
    return pod.request(SELECTED, seconds=0.3).address == address


def _only_owner(observers: Observers, address: str, failure: Failure) -> str:
    healed = time.monotonic()

    def alone() -> str:
        owners = observers.owners(ALONE_MS).get(address, ())
        return owners[0] if len(owners) == 1 and time.monotonic() > healed + AFTERWARDS_S else ""

    try:
        return until(alone, f"{failure.name}: exactly one owner", RECOVERY_S)
    except NotInTime as error:
        raise NotInTime(f"{error}; owners: {observers.owners(ALONE_MS)}") from None


def _wrong(capture: Capture, address: str) -> tuple[str, ...]:
    return tuple(sorted(capture.sources(SELECTED) - {address}))


# -- failures that basic mode does not have, or that mean something else here


def isolate(lab: Lab, master: str) -> None:
    """Its cables end nowhere, but its links stay up: it is not told that it is cut off."""
    _plug(lab, master, lambda segment: "nomaster")


def reconnect(lab: Lab, master: str) -> None:
    """Undoes :func:`isolate`."""
    _plug(lab, master, lambda segment: f"master br-{segment}")


def _plug(lab: Lab, node: str, where: Callable[[str], str]) -> None:
    host = next(host for host in lab.topology.hosts if host.name == node)
    lab.machines["lan"].ip(*(f"link set {node}-{i.name} {where(i.segment)}" for i in host.interfaces))


def _freeze_and_resume(lab: Lab, master: str) -> None:
    _named("node frozen").strike(lab, master)
    began = time.monotonic()
    try:
        until(lambda: time.monotonic() - began > FROZEN_S, "it has been frozen for long", 2 * FROZEN_S)
    finally:
        _named("node frozen").heal(lab, master)


def _nothing(lab: Lab, master: str) -> None:
    """Heals by itself."""


def _duplicate(lab: Lab, master: str) -> None:
    if INTRUDER.name not in lab.machines:
        lab.add_host(INTRUDER)
    machine = lab.machines[INTRUDER.name]
    machine.ip(f"address add {VIRTUAL}/32 dev eth0")
    with machine.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind(("eth0", 0))
        raw.send(frames.announcement(raw.getsockname()[4], VIRTUAL))


def _withdraw(lab: Lab, master: str) -> None:
    lab.machines[INTRUDER.name].ip(f"address del {VIRTUAL}/32 dev eth0")


def _named(name: str) -> Failure:
    return next(failure for failure in FAILURES if failure.name == name)


VIRTUAL_FAILURES = (
    *(
        # The fence closes with the lease: whoever loses the one, falls silent; a planned handover loses nothing.
        replace(failure, silent=failure.moves and failure.name != "graceful stop")
        for failure in FAILURES
    ),
    Failure("node isolated", "no cable of the master leads anywhere; its links stay up", isolate, reconnect),
    Failure(
        "node resumed", "SIGSTOP to agent and keeper for 10 s, then SIGCONT", _freeze_and_resume, _nothing
    ),
    Failure(
        "address duplicated",
        "another machine on the LAN takes the address and announces it",
        _duplicate,
        _withdraw,
        moves=False,
    ),
)
