"""Bounds of a message between lease daemons: the decoder bounds every number and every text.

Any holder of the cluster's key can send any message. Without bounds, one number could disable every daemon: an epoch
that cannot be raised, or a moment that no clock reaches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated

from msgspec import Meta

HIGHEST_EPOCH = 1 << 62
EPOCH_STEP = 1 << 32
"""Largest distance of an epoch to the highest one known. Epochs grow by one with each change of a master."""
LAST_STEP = 16
"""The same distance within the last :data:`EPOCH_STEP` below the bound: room for changes that a node has missed."""
CONFIRMED_NS = 5 * 10**9
"""Time for which a received epoch excludes epochs that are more than :data:`EPOCH_STEP` above it."""
MAX_IDS = 1 << 14
"""Largest number of egress IPs that a node keeps a record of."""
FORGET_NS = 600 * 10**9
"""Shortest time for which the record of an egress IP is kept that is in no configuration and no message and has no
master: no message is under way for as long.
"""
MAX_LEASE_NS = 2 * 3600 * 10**9
"""Longest lease, or wait for a lease: twice the longest that a configuration can ask for."""

Epoch = Annotated[int, Meta(ge=0, le=HIGHEST_EPOCH)]
Counter = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Incarnation = Annotated[int, Meta(ge=0)]
"""64 bits, the range of a MessagePack integer."""
Duration = Annotated[int, Meta(ge=0, le=MAX_LEASE_NS)]
Milliseconds = Annotated[int, Meta(ge=0, le=1 << 53)]
Seconds = Annotated[float, Meta(ge=0, le=253_402_300_799)]
"""Unix time, to the end of the year 9999."""
Name = Annotated[str, Meta(max_length=253)]
Identity = Annotated[str, Meta(max_length=16)]
"""Id of an egress IP, 16 hex digits, or :data:`.voting.voter_set.PROPOSER_LEASE`."""
Carried = Annotated[tuple[Identity, ...], Meta(max_length=MAX_IDS)]
Text = Annotated[str, Meta(max_length=4096)]
Version = Annotated[int, Meta(ge=1, le=65535)]
"""Version of the protocol."""
Vni = Annotated[int, Meta(ge=0, le=(1 << 24) - 1)]
MAX_TUNNELS = 16
"""Tunnels in one message."""
Port = Annotated[int, Meta(ge=1, le=65535)]
Mask = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
KeyNumbers = Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=8)]
"""Fingerprints of keys, 64 bits each."""
Members = Annotated[tuple[Name, ...], Meta(max_length=64)]
"""A voter set has at most six members, in the middle of a change."""


class EpochLimit:
    """A bound of the epochs that a node accepts from others: as high as changes of a master can explain.

    Without a limit, one message could raise an epoch to its bound, and no node could ever be master again. But known
    epochs may be old: a node that missed how the others reached a high epoch must not refuse that epoch for ever. So a
    known epoch excludes others only while another node confirms it.
    """

    def __init__(self) -> None:
        self._confirmed_at: dict[str, int] = {}

    def forget(self, keep: Collection[str]) -> None:
        """Drop all ids that are not in ``keep``. Each id with a known epoch must be in ``keep``."""
        self._confirmed_at = {identity: at for identity, at in self._confirmed_at.items() if identity in keep}

    def refused(self, epochs: Mapping[str, int], highest: Mapping[str, int], now: int) -> str:
        """Return the first id whose epoch is out of reach; empty if there is none, and all epochs are accepted.

        ``epochs``: those of one message. ``highest``: the highest known epochs. ``now``: nanoseconds.
        """
        for identity, epoch in epochs.items():
            known = highest.get(identity)
            confirmed = known is not None and now < self._confirmed_at.get(identity, now) + CONFIRMED_NS
            if epoch > _reach(known or 0, confirmed):
                return identity
        for identity, epoch in epochs.items():
            room = identity in self._confirmed_at or len(self._confirmed_at) < MAX_IDS
            if epoch >= highest.get(identity, 0) and room:
                self._confirmed_at[identity] = now
        return ""


def _reach(known: int, confirmed: bool) -> int:
    """Return the highest epoch to accept. Close to the bound only small steps count: two leaps must not reach it."""
    last = HIGHEST_EPOCH - EPOCH_STEP
    leap = min(known + EPOCH_STEP, last) if confirmed else last
    return min(max(leap, known + LAST_STEP), HIGHEST_EPOCH)
