"""When a node writes the status of an object, where another node may write another one.

Which node writes follows from what it knows (:func:`.conditions.gateway_status_writer`), so two nodes that know
different objects may both do so. Three rules settle that: a status is written over the version of the object that it
was made for and over no other; of two statuses both nodes prefer the same one; and the node whose status is not
preferred repeats it less and less often. Nor is that status written before this node has wanted it for a while: a
node that has just started, or was cut off, does not know of the master yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .conditions import Report, readiness, rows
from .reflector import Object, key_of, version_of

FIRST_REPEAT_S, LONGEST_REPEAT_S = 10.0, 86400.0
"""Seconds after which a status is written over a preferred one of another node: the first wait, doubled each time, and
the longest. It is not given up: the other node may be gone, or wrong."""
SURE_S = 3.0
"""Seconds for which a node must want a status before it is written over a preferred one."""
LATE = 16
"""Writes by which a watch may be late."""
Identity = tuple[str, str]
"""Kind and name."""


@dataclass(frozen=True)
class Turn:
    """What this node wrote last."""

    said: str = ""
    stored: str = ""
    """What the API has stored of it: a definition may lack a field. Both without times, as text."""
    over: tuple[str, ...] = ()
    """The versions of the object before this write, and before earlier ones of this node: the watch may be at one."""
    item: Object | None = None
    """The object as the API has answered."""
    at: float = 0.0
    """Seconds of a clock that is never set."""
    wait: float = 0.0
    refused: str = ""
    """The version of the object that this node knew when the API refused, because there is a newer one."""


class Writers:
    """The turns of one node, by object."""

    def __init__(self) -> None:
        self._turns: dict[Identity, Turn] = {}
        self._doubts: dict[Identity, tuple[float, float]] = {}
        """Since when, and until when, this node wants a status that is not preferred to the stored one."""

    def may_write(self, report: Report, now: float) -> bool:
        """Return True if the status is to be written now. Asked each second or more often.

        ``now``: seconds of a clock that is never set, here and below.
        """
        identity = report.kind, report.name
        if report.before and _preference(report.before) > _preference(report.status):
            since, until = self._doubts.get(identity, (now, now))
            self._doubts[identity] = since, until = (since if now <= until + SURE_S else now), now
            if until < since + SURE_S:
                return False
        else:
            self._doubts.pop(identity, None)
        turn = self._turns.get(identity)
        if turn is None:
            return True
        if report.version and report.version == turn.refused:
            return False
        if (_text(report.status), _text(report.before)) == (turn.said, turn.stored):
            return False
        return not self.contested(report) or now >= turn.at + turn.wait

    def contested(self, report: Report) -> bool:
        """Return True if another node has written a status, after this one did, that both nodes prefer."""
        turn = self._turns.get((report.kind, report.name))
        overwritten = turn is not None and turn.said != "" and _text(report.before) != turn.stored
        return overwritten and _preference(report.before) > _preference(report.status)

    def wrote(self, report: Report, stored: Object, now: float) -> None:
        """Note a status that the API has taken. ``stored``: the object as the API has answered."""
        identity = report.kind, report.name
        turn = self._turns.get(identity, Turn())
        overwritten = turn.said != "" and _text(report.before) != turn.stored
        wait = turn.wait if overwritten else FIRST_REPEAT_S
        if self.contested(report):
            wait = min(2 * wait, LONGEST_REPEAT_S)
        kept = _text(stored.get("status") or {})
        over = (*turn.over[1 - LATE :], report.version)
        self._turns[identity] = Turn(_text(report.status), kept, over, stored, now, wait)

    def refused(self, report: Report) -> None:
        """Note that the object is not the one any more that this node knows."""
        identity = report.kind, report.name
        self._turns[identity] = replace(self._turns.get(identity, Turn()), refused=report.version)

    def as_written(self, objects: Iterable[Object]) -> list[Object]:
        """Return the objects, with what this node wrote where the watch has reported nothing newer.

        ``objects``: all that there are; what was written of others is forgotten.
        """
        turns, self._turns, found = self._turns, {}, []
        for item in objects:
            identity = str(item.get("kind")), key_of(item)[1]
            turn = turns.get(identity)
            if turn is not None:
                self._turns[identity] = turn
            if turn is not None and turn.item is not None and version_of(item) in turn.over:
                metadata = {**item["metadata"], "resourceVersion": version_of(turn.item)}
                item = {**item, "metadata": metadata, "status": turn.item.get("status") or {}}
            found.append(item)
        return found


def _preference(status: Mapping[str, Any]) -> tuple[int, int, bool, str]:
    """Return what orders statuses, the preferred one last: by newer knowledge, then by more, then by anything.

    A higher epoch is newer. A node that finds a master or a gateway knows more than one that does not.
    """
    epochs = [_number(row.get("epoch")) for row in rows(status, "egressIPs")]
    ready = readiness(status).get("status") == "True"
    return _number(status.get("observedGeneration")), max(epochs, default=0), ready, _text(status)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _text(status: Mapping[str, Any]) -> str:
    """Return a status without the times of its conditions, as text."""
    conditions = [
        {name: value for name, value in condition.items() if name != "lastTransitionTime"}
        for condition in rows(status, "conditions")
    ]
    return json.dumps({**status, "conditions": conditions}, sort_keys=True)
