"""The master of one egress IP, as one node knows it from announcements and releases."""

from __future__ import annotations

import msgspec

from ..voting.protocol import MILLISECOND

QUEUE_NS = 1500 * MILLISECOND
"""Longest time that packets are queued during a handover: longer than the old master waits for workers.
"""
QUEUE_TIMED_OUT = 1
"""Value in place of a time: the queueing of this handover has timed out and must not start again."""


class MasterEntry(msgspec.Struct, frozen=True):
    """The master of one egress IP, as this node knows it."""

    master: str = ""
    """Name of the master; empty: none known."""
    epoch: int = 0
    since: float = 0.0
    received_at: int = 0
    without_quorum: bool = False
    gone: str | None = None
    """The reason that the master gave for its release; None: it has released nothing."""
    lost: str = ""
    """The reason why there is no master any more."""
    shown: str = ""
    """The address that the outside sees."""
    leaving_at: int = 0
    """The moment at which this node learned that the master hands over; 0: it does not."""
    gone_at: int = 0
    """The moment at which this node learned of the master's release; 0: there was none."""
    unserved_since: int = 0
    """The moment since which the master may not have served, by its own release; 0: there was no release."""
    planned: bool = False
    """True if the master has handed over to a node of its choice."""

    def silent_ns(self, suspect_ns: int, now: int) -> int:
        """Return for how long no packet has left by the egress IP, if it gets a new master now.

        The silence begins when the master released it, or earlier if the release says so. If the master had been
        silent for ``suspect_ns`` by then, the silence begins with the master's last message: the master may have been
        cut off since. So the value is an upper bound. A planned handover is no silence as long as the workers' kernels
        queue their packets.
        """
        if not self.epoch:
            return 0
        if self.planned and now - self.gone_at < QUEUE_NS:
            return 0
        known_to_the_end = self.gone_at and self.gone_at - self.received_at <= suspect_ns
        begin = self.gone_at if known_to_the_end else self.received_at
        return now - min(begin, self.unserved_since or begin)

    def is_queueing(self, now: int) -> bool:
        """Return True if packets are queued for the next master.

        It ends by a time-out: the handover may have failed.
        """
        return bool(self.master and self.leaving_at) and now < self.leaving_at + QUEUE_NS
