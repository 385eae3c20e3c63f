"""keepalived under the same failures as our agents, with the same witnesses, at any advert interval.

Its observers speak only while their node has the address: keepalived has no fence that a raw socket could run into,
and two owners are found nevertheless.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..lab.flow import Flow
from ..lab.lab import Lab
from ..lab.observing import Observers
from ..lab.overlap import longest_overlap, takeovers
from ..lab.silence import longest
from ..lab.waiting import NotInTime, until
from . import phase
from .keepalived import ADDRESS, INTERFACE, PAIR, PORT, Keepalived, holder, running
from .virtual import LAST_ANSWERS_S, isolate, reconnect

TOGETHER_S = 3.0
"""Seconds in which two owners are watched where nothing would part them."""
AFTER_S = 0.3
"""Seconds that are watched after another node has taken the address."""


@dataclass(frozen=True)
class RivalRun:
    """What one failure did to a flow from outside to keepalived's address."""

    failure: str
    silence: float
    """Longest silence, milliseconds."""
    lost: int
    overlap: float
    """The longest time with two owners, milliseconds, as far as it was watched."""
    moved: bool


Act = Callable[[Keepalived, str], None]


@dataclass(frozen=True)
class RivalFailure:
    name: str
    strike: Act
    heal: Act
    seconds: float = AFTER_S
    """Seconds that the failure lasts once another node has the address."""
    fresh: bool = False
    """True if each run needs daemons that have just been started: one that was stopped works off its backlog when it
    continues, and takes and drops the address several times; that belongs to this run and not to the next.
    """


def _signal(number: int) -> Act:
    return lambda rival, name: rival.signal(name, number)


RIVAL_FAILURES = (
    RivalFailure(
        "node cut off", lambda rival, name: rival.lab.cut(name), lambda rival, name: rival.lab.mend(name)
    ),
    RivalFailure("node frozen", _signal(signal.SIGSTOP), _signal(signal.SIGCONT), TOGETHER_S, fresh=True),
    RivalFailure("keeper killed", _signal(signal.SIGKILL), Keepalived.ended, TOGETHER_S, fresh=True),
    RivalFailure(
        "node isolated",
        lambda rival, name: isolate(rival.lab, name),
        lambda rival, name: reconnect(rival.lab, name),
        TOGETHER_S,
    ),
    RivalFailure("graceful stop", _signal(signal.SIGTERM), Keepalived.ended),
)
"""Failures with the names of :data:`tests.bench.virtual.VIRTUAL_FAILURES`."""


def measure(
    lab: Lab, interval: float, failure: RivalFailure, count: int = 1, first: int = 0
) -> Iterator[RivalRun]:
    """One failure several times; ``interval`` between adverts, seconds. ``first``: the number of the first run."""
    numbers = iter(range(first, first + count))
    while count > 0:
        lab.machines["router"].run("ip", "neighbour", "flush", "dev", INTERFACE)
        with (
            running(lab, interval) as rival,
            Observers(lab, PAIR, [ADDRESS], INTERFACE, held=True) as observers,
        ):
            for _ in range(1 if failure.fresh else count):
                count -= 1
                yield _measure(rival, phase.part(next(numbers)) * interval, failure, observers)


def _measure(rival: Keepalived, after: float, failure: RivalFailure, observers: Observers) -> RivalRun:
    """``after``: seconds from an advert to the failure."""
    lab = rival.lab
    observers.forget()
    with (
        Flow(
            lab.machines["outside"], lab.directory / "rival-flow.log", PORT, ADDRESS, late=LAST_ANSWERS_S
        ) as flow,
        lab.capture() as capture,
    ):
        until(lambda: len(capture.packets()) > 100, "answers arrive", 20)
        before = until(lambda: _owner(lab, observers), "one node has the address", 20)
        if not rival.whole:
            raise RuntimeError(f"keepalived does not run on both nodes: see {lab.directory}/keepalived-*")
        phase.adverts(lab, before, next(name for name in PAIR if name != before), INTERFACE).wait(after)
        struck = time.time_ns()
        try:
            failure.strike(rival, before)
            until(
                lambda: _taken(observers, before, struck), f"{failure.name}: another node has the address", 20
            )
            answered = len(capture.packets())
            until(lambda: len(capture.packets()) > answered + 20, "answers arrive again", 20)
            time.sleep(failure.seconds)
        finally:
            failure.heal(rival, before)
        try:
            until(lambda: len(observers.owners(200).get(ADDRESS, ())) == 1, "one owner is left", 20)
        except NotInTime as error:
            raise NotInTime(f"keepalived, {failure.name}: {error}") from None
        silence = longest(flow.stop())
        found, moves = observers.overlaps(), takeovers(observers.frames())
    return RivalRun(failure.name, silence.milliseconds, silence.lost, longest_overlap(found), bool(moves))


def _owner(lab: Lab, observers: Observers) -> str:
    """Return the node that has the address and has been the only one for a while; empty if there is none."""
    name = holder(lab)
    return name if observers.owners(500).get(ADDRESS) == (name,) else ""


def _taken(observers: Observers, before: str, struck: int) -> bool:
    return any(frame.node != before for frame in observers.frames() if frame.at > struck)
