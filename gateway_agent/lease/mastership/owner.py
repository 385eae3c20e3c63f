"""The leases of one node: requests to the voters, and the leases that a majority of answers makes.

Theory of operation
-------------------
1. Each heartbeat is one request. It carries every claim of the node and the node's own number of the request; the node
   remembers when it sent the request.
2. A majority of grants *to one request* makes or renews the lease. Grants to two requests are not added up: each ends a
   lease time after its own receipt.
3. The lease ends at the sending time + the lease time, less the clocks' rate bound and a margin
   (:func:`..voting.protocol.lease_end`). Every grant began at its receipt, so after the sending: it outlives the lease.
4. An answer never shortens a lease, and never revives a lease that has ended: the voters may have granted the egress IP
   to another node since.
5. With a fence in the kernel, grants count only while the fence has the request's ticket
   (:mod:`..virtual_ips.serving`): without the ticket, the kernel would not open the fence.
6. An epoch is used once. The release of an older lease may still be under way, and ends grants up to its epoch.
"""

from __future__ import annotations

from msgspec.structs import replace

from ..egress_ips.egress_ip import LEASED, MASTER, EgressIP, EgressIPs, Event, Phase
from ..voting.protocol import (
    DURATION,
    MARGIN_NS,
    NEVER,
    VOTERS,
    LeaseState,
    Quorum,
    Request,
    Verdict,
    lease_end,
    ticket_ns,
)


class Owner:
    """The requests and leases of one node. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, egress_ips: EgressIPs, margin_ns: int = MARGIN_NS) -> None:
        self.fenced: frozenset[str] = frozenset()
        """Ids of egress IPs with a fence: a lease that cannot open the fence is useless."""
        self._egress_ips = egress_ips
        self._margin_ns = margin_ns
        self._requests: dict[int, Request] = {}
        self._seq = 0
        self.grants = 0
        """Number of times that a majority has made or renewed a lease."""

    def ask(self, identity: str, epoch: int, now: int) -> None:
        """Claim the egress IP in all following requests, with this epoch or a higher one.

        A used epoch is not used again: its release may still be on its way.
        """
        record = self._egress_ips.record(identity)
        record.used_epoch = fresh = max(epoch, record.used_epoch + 1)
        lease = LeaseState(fresh, first_seq=self._seq + 1, asked_at=now)
        self._egress_ips.transition(identity, Event.ASK, lease)

    def exceed(self, identity: str, epoch: int) -> None:
        """Claim a higher epoch than this one, and keep the lease."""
        record = self._egress_ips.find(identity)
        if record and record.lease and record.lease.epoch <= epoch:
            record.lease.epoch = record.used_epoch = epoch + 1

    def drop(self, identity: str, event: Event) -> LeaseState | None:
        """End the claim of an egress IP by ``event``. Grants that are still on their way do not count."""
        lease = self._egress_ips.lease(identity)
        self._egress_ips.transition(identity, event)
        return lease

    def held(self, now: int) -> dict[str, LeaseState]:
        """Return the leases that run, by egress id."""
        records = self._egress_ips.in_phase(*MASTER)
        return {each.id: each.lease for each in records if each.lease and each.lease.holds(now)}

    def lost(self, now: int) -> tuple[str, ...]:
        """Return the egress IPs whose lease has ended without renewal."""
        return tuple(each.id for each in self._egress_ips.in_phase(*MASTER) if not each.holds(now))

    def next_end(self) -> int:
        """Return when the next lease ends if nothing renews it."""
        leases = (each.lease.until for each in self._egress_ips.in_phase(*MASTER) if each.lease)
        return min(leases, default=NEVER)

    def request(self, quorum: Quorum, duration_ns: int, now: int) -> Request:
        """Create the next request, which renews leases and requests the egress IPs whose turn has come."""
        self._seq += 1
        leases = [(each.id, each.lease) for each in self._egress_ips.in_phase(*LEASED)]
        claims = {
            i: lease.epoch for i, lease in leases if lease and (lease.holds(now) or lease.retry_at <= now)
        }
        request = Request(self._seq, now, duration_ns, claims, quorum)
        too_old = [r.seq for r in self._requests.values() if lease_end(r.sent_at, r.duration_ns, 0) <= now]
        for seq in too_old:
            del self._requests[seq]
        self._requests[request.seq] = request
        return request

    def count(self, voter: str, seq: int, verdict: Verdict, now: int) -> Request | None:
        """Count an answer. Return its request; None if the request is too old."""
        request = self._requests.get(seq)
        if request is None:
            return None
        for identity in verdict.granted:
            if identity in request.claims:
                request.granted.setdefault(identity, set()).add(voter)
                request.moments.setdefault(identity, {})[voter] = now
                self._extend(identity, request, now)
        for refusal in verdict.refused:
            if refusal.why not in (DURATION, VOTERS) and refusal.id in request.claims:
                request.moments.setdefault(refusal.id, {})[voter] = now + refusal.remaining_ns
        return request

    def _extend(self, identity: str, request: Request, now: int) -> None:
        """Make or renew the lease if a majority has granted ``request``: steps 2 to 5 above."""
        record = self._egress_ips.find(identity)
        if record is None or record.lease is None or request.seq < record.lease.first_seq:
            return
        if not request.quorum.met(request.granted[identity]):
            return
        ticket_end = request.sent_at + ticket_ns(request.duration_ns) - self._margin_ns
        if identity in self.fenced and now > ticket_end:
            # The kernel would not open the fence: it would drop the packets that an announcement attracts.
            return
        lease, until = record.lease, lease_end(request.sent_at, request.duration_ns, self._margin_ns)
        if until <= max(now, lease.until) or (lease.until and not lease.holds(now)):
            return
        granted = replace(
            lease,
            until=until,
            granted_seq=request.seq,
            duration_ns=request.duration_ns,
            held_epoch=max(lease.held_epoch, request.claims[identity]),
            without_quorum=request.quorum.without_quorum,
        )
        self._grant(record, granted, now)

    def _grant(self, record: EgressIP, lease: LeaseState, now: int) -> None:
        self.grants += 1
        if record.phase is Phase.REQUESTING:
            record.margins.clear()
            self._egress_ips.transition(record.id, Event.GRANT, lease)
        else:
            if record.lease:
                record.margins.append(record.lease.until - now)
            record.renew(lease)
