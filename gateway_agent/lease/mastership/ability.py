"""The egress IPs that this node can serve, as its heartbeats list them: computed once for each configuration."""

from __future__ import annotations

from collections.abc import Mapping

from ..egress_ips.egress_ip import EgressIPs
from ..ipc import EgressIPSpec
from ..placement.candidates import WARM_UP_NS
from ..placement.lateness import Lateness
from ..voting.protocol import NEVER
from ..voting.voter_set import PROPOSER_LEASE


class Ability:
    """One node's. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, me: str, egress_ips: EgressIPs, lateness: Lateness) -> None:
        self.known: tuple[str, ...] = ()
        """Ids of all egress IPs of this node's configuration."""
        self.unready: dict[str, str] = {}
        """The reasons why this node cannot serve what it is eligible for, by egress id."""
        self._me = me
        self._egress_ips = egress_ips
        self._lateness = lateness
        self._last_ready = -NEVER
        """The moment at which this node became ready for an egress IP last."""

    def configure(self, specs: Mapping[str, EgressIPSpec]) -> None:
        """Take on other specs, and the moments at which this node became ready for them."""
        self.known = tuple(specs)
        self.unready = {
            spec.id: spec.reason
            for spec in specs.values()
            if not spec.ready and self._me in spec.eligible and spec.id != PROPOSER_LEASE
        }
        ready = (record.ready_since for record in self._egress_ips if record.ready_since is not None)
        self._last_ready = max(ready, default=-NEVER)

    def warming(self, now: int) -> tuple[str, ...]:
        """Return the ids for which this node ranks last: it became ready for them just now, or it is late."""
        late = self._lateness.is_late(now)
        if not late and now >= self._last_ready + WARM_UP_NS:
            return ()
        ready = ((each.id, each.ready_since) for each in self._egress_ips if each.ready_since is not None)
        return tuple(i for i, since in ready if late or now < since + WARM_UP_NS)
