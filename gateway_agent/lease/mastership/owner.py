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
7. At rest each voter grants every claim of a request. Such answers are counted once for all claims, and the renewal
   moves the ends of the same leases (:mod:`..egress_ips.running_leases`).
"""

from __future__ import annotations

from msgspec.structs import replace

from ..egress_ips.egress_ip import LEASED, EgressIPs, Event, Phase
from ..egress_ips.running_leases import RunningLeases
from ..voting.protocol import (
    DURATION,
    MARGIN_NS,
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
        self.running = RunningLeases(egress_ips)
        self._egress_ips = egress_ips
        self._margin_ns = margin_ns
        self._requests: dict[int, Request] = {}
        self._seq = 0
        self._claims: dict[str, int] = {}
        """The claims of the last request."""
        self._claims_of = -1
        """The version of the egress IPs as long as these claims are those of the leases that run; else -1."""

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
            self._egress_ips.version += 1
            record.lease.epoch = record.used_epoch = epoch + 1

    def drop(self, identity: str, event: Event) -> LeaseState | None:
        """End the claim of an egress IP by ``event``. Grants that are still on their way do not count."""
        lease = self._egress_ips.lease(identity)
        self._egress_ips.transition(identity, event)
        return lease

    def held(self, now: int) -> dict[str, LeaseState]:
        """Return the leases that run, by egress id. Read only: the same object as long as these are the same."""
        return self.running.held(now)

    def lost(self, now: int) -> tuple[str, ...]:
        """Return the egress IPs whose lease has ended without renewal."""
        return self.running.lost(now)

    def next_end(self) -> int:
        """Return when the next lease ends if nothing renews it."""
        return self.running.next_end()

    def request(self, quorum: Quorum, duration_ns: int, now: int) -> Request:
        """Create the next request, which renews leases and requests the egress IPs whose turn has come."""
        self._seq += 1
        request = Request(self._seq, now, duration_ns, self._claim(now), quorum)
        too_old = [r.seq for r in self._requests.values() if lease_end(r.sent_at, r.duration_ns, 0) <= now]
        for seq in too_old:
            del self._requests[seq]
        self._requests[request.seq] = request
        return request

    def _claim(self, now: int) -> dict[str, int]:
        """Return what a request is to claim: the same object as long as that is the same."""
        if self._claims_of == self._egress_ips.version and now < self.next_end():
            return self._claims
        self._claims_of = -1
        leases = [(each.id, each.lease) for each in self._egress_ips.in_phase(*LEASED)]
        self._claims = {
            i: lease.epoch for i, lease in leases if lease and (lease.holds(now) or lease.retry_at <= now)
        }
        if len(leases) == len(self.running.masters()) == len(self._claims):
            self._claims_of = self._egress_ips.version
        return self._claims

    def count(self, voter: str, seq: int, verdict: Verdict, now: int) -> Request | None:
        """Count an answer. Return its request; None if the request is too old."""
        request = self._requests.get(seq)
        if request is None:
            return None
        if not verdict.refused and verdict.granted == tuple(request.claims):
            request.granted_all[voter] = now
            self._extend_all(request, now)
            return request
        for identity in verdict.granted:
            if identity in request.claims:
                request.granted.setdefault(identity, set()).add(voter)
                request.moments.setdefault(identity, {})[voter] = now
                if request.quorum.reached_by({*request.granted_all, *request.granted[identity]}):
                    self._extend(identity, request, now)
        for refusal in verdict.refused:
            if refusal.why not in (DURATION, VOTERS) and refusal.id in request.claims:
                request.moments.setdefault(refusal.id, {})[voter] = now + refusal.remaining_ns
        return request

    def _extend_all(self, request: Request, now: int) -> None:
        """Make or renew the leases that a majority has granted, after an answer that grants all claims."""
        if request.settled:
            return
        whole = request.quorum.reached_by(request.granted_all)
        for identity in request.claims if whole else request.granted:
            if whole or request.quorum.reached_by({*request.granted_all, *request.granted[identity]}):
                self._extend(identity, request, now)
        # The end of a lease follows from the request, not from the answer: another answer changes nothing.
        request.settled = whole

    def _extend(self, identity: str, request: Request, now: int) -> None:
        """Make or renew the lease, which a majority has granted with ``request``: steps 3 to 5 above."""
        record = self._egress_ips.find(identity)
        lease = record.state.lease if record else None
        if record is None or lease is None or request.seq < lease.first_seq:
            return
        ticket_end = request.sent_at + ticket_ns(request.duration_ns) - self._margin_ns
        if identity in self.fenced and now > ticket_end:
            # The kernel would not open the fence: it would drop the packets that an announcement attracts.
            return
        until = lease_end(request.sent_at, request.duration_ns, self._margin_ns)
        if until <= now or until <= lease.until or (lease.until and lease.until <= now):
            return
        self.running.renewals += 1
        if record.state.phase is Phase.REQUESTING:
            record.margins.clear()
            granted = replace(lease)
            self._renew(granted, request, until, request.claims[identity])
            self._egress_ips.transition(identity, Event.GRANT, granted)
        else:
            record.margins.append(lease.until - now)
            self._renew(lease, request, until, request.claims[identity])

    def _renew(self, lease: LeaseState, request: Request, until: int, epoch: int) -> None:
        """Write a grant into a lease. The end comes last: an error on the way here makes no lease longer."""
        without_quorum = request.quorum.without_quorum
        if epoch > lease.held_epoch or without_quorum is not lease.without_quorum:
            self._egress_ips.version += 1
            lease.held_epoch = max(lease.held_epoch, epoch)
            lease.without_quorum = without_quorum
        lease.granted_seq = request.seq
        lease.duration_ns = request.duration_ns
        lease.until = until
