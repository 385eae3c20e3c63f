"""The leases of one node that run, worked out anew only when one of them has changed.

Every input asks for them several times, and with each renewal only their ends move.
"""

from __future__ import annotations

from ..voting.protocol import NEVER, LeaseState
from .egress_ip import MASTER, EgressIP, EgressIPs


class RunningLeases:
    """One node's. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, egress_ips: EgressIPs) -> None:
        self._egress_ips = egress_ips
        self._known: tuple[int, int] | None = None
        """The version of the egress IPs and the number of renewals that what follows belongs to."""
        self._masters: list[EgressIP] = []
        self._of_version = -1
        self._next_end = NEVER
        self._held: dict[str, LeaseState] = {}
        self._held_of: tuple[int, bool] | None = None
        """The version, and whether every lease ran."""
        self.renewals = 0
        """Grows before the end of any lease moves."""

    def masters(self) -> list[EgressIP]:
        """Return the egress IPs that a majority has granted, whether the lease has ended or not. Read only."""
        if self._of_version != self._egress_ips.version:
            self._masters = self._egress_ips.in_phase(*MASTER)
            self._of_version = self._egress_ips.version
        return self._masters

    def next_end(self) -> int:
        """Return when the next lease ends if nothing renews it."""
        known = self._egress_ips.version, self.renewals
        if self._known != known:
            leases = [each.state.lease for each in self.masters()]
            self._next_end = min([lease.until for lease in leases if lease], default=NEVER)
            self._known = known
        return self._next_end

    def held(self, now: int) -> dict[str, LeaseState]:
        """Return the leases that run, by egress id. Read only: it is the same object as long as these are the same."""
        every = now < self.next_end()
        known = self._egress_ips.version, every
        if not every or self._held_of != known:
            leases = [(each.id, each.state.lease) for each in self.masters()]
            self._held_of = None
            self._held = {identity: lease for identity, lease in leases if lease and lease.until > now}
            self._held_of = known
        return self._held

    def lost(self, now: int) -> tuple[str, ...]:
        """Return the egress IPs whose lease has ended without renewal."""
        if now < self.next_end():
            return ()
        return tuple(each.id for each in self.masters() if not each.holds(now))
