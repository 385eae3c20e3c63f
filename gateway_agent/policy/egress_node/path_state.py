"""Decide from rounds of probes if a node's path is open for an egress IP. Pure.

A path counts as open from the first round in which all probes get through, and as closed after :data:`MISSES`
consecutive rounds with a lost probe. A path that was closed must stay open for a hold time before other nodes hand over
to this node again: otherwise a rule that comes and goes would move the address each time. The hold time grows with each
closing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

MISSES = 2
"""Number of consecutive rounds with a lost probe that close a path: one probe may be lost while rules are replaced."""
AGAIN_S = 10.0
"""Seconds after which the cause is searched again: it may have changed by then."""
FIRST_HOLD_S, MAX_HOLD_S = 5.0, 60.0
"""Hold time of the first closing; each further one doubles it, up to the second value."""
CALM_S = 300.0
"""Seconds for which a path must have been open so that its next closing counts as a first one."""
UNPROVEN = "it is not proven yet that packets get through this node"


class Todo(Enum):
    """Further work that a round requires."""

    NOTHING = 0
    FIND_CAUSE = 1
    """Find out which rule drops the probes."""
    MEASURE = 2
    """Measure the largest packet that gets through."""


@dataclass(frozen=True)
class PathState:
    """The path of one egress IP, by the rounds of probes so far. ``PathState()``: before the first round."""

    proven: bool = False
    """True once the rounds have found it open or closed, or a test impossible."""
    missed: int = 0
    """Number of consecutive rounds in which a probe did not get through."""
    missed_large: int = 0
    """Number of consecutive rounds in which only the probe of the tunnel's full size did not get through."""
    reason: str = ""
    """Reason for lost packets; empty: packets get through, or it is not known."""
    problem: str = ""
    """Problem of a path that is not closed: a size, or a test that is not possible."""
    searched_at: float = -math.inf
    measured_at: float = -math.inf
    hold_s: float = 0.0
    """Hold time of the last closing; 0: there was none."""
    held: bool = False
    """True if the path was closed, and has not been open for the hold time since."""
    held_until: float = 0.0
    opened_at: float = 0.0
    """Time at which the last hold time ended."""

    @property
    def doubtful(self) -> bool:
        """Return True if the next round should come soon."""
        return not self.proven or bool(self.missed and not self.reason and not self.problem)

    def pending(self, serving: bool, served: bool) -> str:
        """Return why this node should not take over though no path is known to be closed; empty if it may.

        ``serving``: True if this node is the master. ``served``: True if any node is. A master goes on, even if its
        agent has just started; and a node in its hold time is better than none.
        """
        if self.reason or serving:
            return ""
        if not self.proven:
            return UNPROVEN
        if self.held and served:
            return f"packets were dropped on this node: ready when all get through for {self.hold_s:.0f} s"
        return ""


UNTESTABLE = PathState(proven=True)
"""State of a path that cannot be tested."""


def after_round(state: PathState, lost: bool, lost_large: bool, now: float) -> tuple[PathState, Todo]:
    """Return the state after a round, and further work.

    ``lost``: a small probe was lost; ``lost_large``: the large one.
    """
    if lost:
        state = replace(
            state,
            missed=state.missed + 1,
            missed_large=0,
            held_until=max(state.held_until, now + state.hold_s),
        )
        due = state.missed >= MISSES and now >= state.searched_at + AGAIN_S
        return state, Todo.FIND_CAUSE if due else Todo.NOTHING
    state = _passed(state, now)
    if not lost_large:
        return replace(state, missed_large=0, problem="", measured_at=-math.inf), Todo.NOTHING
    state = replace(state, missed_large=state.missed_large + 1)
    due = state.missed_large >= MISSES and now >= state.measured_at + AGAIN_S
    return (replace(state, measured_at=now), Todo.MEASURE) if due else (state, Todo.NOTHING)


def _passed(state: PathState, now: float) -> PathState:
    """Return the state after a round in which all small probes got through."""
    ends = state.held and now >= state.held_until
    return replace(
        state,
        proven=True,
        missed=0,
        reason="",
        searched_at=-math.inf,
        held=state.held and not ends,
        opened_at=now if ends else state.opened_at,
    )


def closed(state: PathState, reason: str, now: float) -> PathState:
    """Return the state after a search that has found which rule drops the packets."""
    hold_s = state.hold_s
    if not state.reason and not state.held:
        again = hold_s and now < state.opened_at + CALM_S
        hold_s = min(2 * hold_s, MAX_HOLD_S) if again else FIRST_HOLD_S
    return replace(
        state, proven=True, reason=reason, problem="", searched_at=now, measured_at=-math.inf,
        hold_s=hold_s, held=True, held_until=now + hold_s,
    )  # fmt: skip


def untested(state: PathState, problem: str, now: float) -> PathState:
    """Return the state after a search that says nothing about the packets of other nodes.

    On a busy machine the search may have come too late, so it is repeated.
    """
    sure = state.problem == problem
    return replace(
        state, proven=state.proven or sure, reason="", problem=problem, held=state.held and not sure,
        searched_at=now if sure else -math.inf, measured_at=-math.inf,
    )  # fmt: skip
