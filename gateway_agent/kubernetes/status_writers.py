"""Decide when a node writes the status of an object, if other nodes may write a different one.

The writer follows from a node's knowledge (:func:`.conditions.gateway_status_writer`), so two nodes that know different
objects may both write. Three rules resolve that: a status is written only for the version of the object that it was
computed for; of two statuses both nodes prefer the same one; and the node with the other status repeats its write at
growing intervals. A status that is not preferred is written only after the node has computed it for a while: a node
that has just started, or was cut off, does not know the master yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .conditions import Report, readiness, rows
from .reflector import Object, key_of, version_of

FIRST_REPEAT_S, LONGEST_REPEAT_S = 10.0, 86400.0
"""Seconds after which a status overwrites a preferred one of another node: the first interval, doubled each time, and
the longest. The node never stops, because the other one may be gone, or wrong."""
SURE_S = 3.0
"""Seconds for which a node must compute the same status before it overwrites a preferred one."""
MAX_LATE_WRITES = 16
"""Writes of this node by which the watch may lag behind."""
MAX_EPOCHS_MISSED = 64
"""Largest distance of the epoch in another node's status to those that this node knows: its lease daemon learns of
each change of a master within a second. A higher epoch was announced by no lease daemon.
"""
Identity = tuple[str, str]
"""(kind, name)."""


@dataclass(frozen=True)
class WriteRecord:
    """The last write of this node."""

    said: str = ""
    """The sent status, as text without times."""
    stored: str = ""
    """The status that the API stored, as text without times: its schema may lack a field."""
    over: tuple[str, ...] = ()
    """Versions of the object before this write and before earlier ones, which the watch may still deliver."""
    item: Object | None = None
    """The object in the API's answer."""
    at: float = 0.0
    """Time of the write; monotonic clock, seconds."""
    wait: float = 0.0
    """Interval before the next repetition, seconds."""
    refused: str = ""
    """Version of the object that this node had when the API refused the write because of a newer version."""


class Writers:
    """The decisions about writes of one node, for each object."""

    def __init__(self) -> None:
        self._records: dict[Identity, WriteRecord] = {}
        self._doubts: dict[Identity, tuple[float, float]] = {}
        """First and last moment at which this node computed a status that is not preferred to the stored one."""

    def may_write(self, report: Report, now: float) -> bool:
        """Return True if the status must be written now. Must be called at least once per second.

        ``now``: monotonic clock, seconds, here and below.
        """
        identity = report.kind, report.name
        if report.before and _prefers_stored(report):
            since, until = self._doubts.get(identity, (now, now))
            self._doubts[identity] = since, until = (since if now <= until + SURE_S else now), now
            if until < since + SURE_S:
                return False
        else:
            self._doubts.pop(identity, None)
        record = self._records.get(identity)
        if record is None:
            return True
        if report.version and report.version == record.refused:
            return False
        if (_text(report.status), _text(report.before)) == (record.said, record.stored):
            return False
        return not self.contested(report) or now >= record.at + record.wait

    def contested(self, report: Report) -> bool:
        """Return True if another node has overwritten this node's status with a preferred one."""
        record = self._records.get((report.kind, report.name))
        overwritten = record is not None and record.said != "" and _text(report.before) != record.stored
        return overwritten and _prefers_stored(report)

    def wrote(self, report: Report, stored: Object, now: float) -> None:
        """Note a successful write. ``stored``: the object in the API's answer."""
        identity = report.kind, report.name
        record = self._records.get(identity, WriteRecord())
        overwritten = record.said != "" and _text(report.before) != record.stored
        wait = record.wait if overwritten else FIRST_REPEAT_S
        if self.contested(report):
            wait = min(2 * wait, LONGEST_REPEAT_S)
        kept = _text(stored.get("status") or {})
        over = (*record.over[1 - MAX_LATE_WRITES :], report.version)
        self._records[identity] = WriteRecord(_text(report.status), kept, over, stored, now, wait)

    def refused(self, report: Report) -> None:
        """Note that the API refused a write, because it has a newer version of the object."""
        identity = report.kind, report.name
        self._records[identity] = replace(self._records.get(identity, WriteRecord()), refused=report.version)

    def as_written(self, objects: Iterable[Object]) -> list[Object]:
        """Return the objects, with this node's own writes if the watch has delivered nothing newer.

        ``objects``: all existing objects; writes to any other object are forgotten.
        """
        records, self._records, found = self._records, {}, []
        for item in objects:
            identity = str(item.get("kind")), key_of(item)[1]
            record = records.get(identity)
            if record is not None:
                self._records[identity] = record
            if record is not None and record.item is not None and version_of(item) in record.over:
                metadata = {**item["metadata"], "resourceVersion": version_of(record.item)}
                item = {**item, "metadata": metadata, "status": record.item.get("status") or {}}
            found.append(item)
        return found


def _prefers_stored(report: Report) -> bool:
    """Return True if the stored status is preferred to this node's status.

    A forged status may contain any numbers. Numbers that no agent can have written count as 0: a generation that the
    object does not have yet, and an epoch that no lease daemon has announced.
    """
    generation = _number(report.status.get("observedGeneration"))
    epoch = _highest_epoch(report.status) + MAX_EPOCHS_MISSED
    return _preference(report.before, generation, epoch) > _preference(report.status, generation, epoch)


def _preference(
    status: Mapping[str, Any], highest_generation: int, highest_epoch: int
) -> tuple[int, int, bool, str]:
    """Return a sort key of statuses: the preferred one has the highest.

    Newer knowledge is preferred (generation, epoch), then more knowledge (a node that finds a master or a gateway knows
    more than one that does not), then any fixed order.
    """
    generation, epoch = _number(status.get("observedGeneration")), _highest_epoch(status)
    ready = readiness(status).get("status") == "True"
    return (
        generation if generation <= highest_generation else 0,
        epoch if epoch <= highest_epoch else 0,
        ready,
        _text(status),
    )


def _highest_epoch(status: Mapping[str, Any]) -> int:
    return max((_number(row.get("epoch")) for row in rows(status, "egressIPs")), default=0)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _text(status: Mapping[str, Any]) -> str:
    """Return a status without the times of its conditions, as text."""
    conditions = [
        {name: value for name, value in condition.items() if name != "lastTransitionTime"}
        for condition in rows(status, "conditions")
    ]
    return json.dumps({**status, "conditions": conditions}, sort_keys=True)
