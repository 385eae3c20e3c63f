"""Report the state of a lease node for the agent and for operators."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from .ipc import (
    FOREIGN_KEY,
    LATE,
    UNCONFIGURED,
    EgressIPSpec,
    EgressState,
    KeeperState,
    KernelFailures,
    MemberState,
    OwnKeys,
)
from .messages.keys import fingerprint
from .node import LeaseNode
from .voting import recorded_voter_set
from .voting.members import NO_MAJORITY
from .voting.protocol import MILLISECOND
from .voting.voter_set import PROPOSER_LEASE


def report(
    node: LeaseNode,
    now: int,
    problems: tuple[str, ...] = (),
    keys: bool = False,
    failures: tuple[KernelFailures, ...] = (),
) -> KeeperState:
    """Return the state at ``now`` (a time like those of the node's inputs).

    ``problems``, ``failures``: those that the daemon's process knows of. ``keys``: True to include the table of all
    keys.
    """
    voters, late = node.voter_set.current, tuple(_late(node, now))
    foreign = tuple(node.endpoint.peer_keys.foreign_keys(node.config.node, node.endpoint.keys))
    return KeeperState(
        node=node.config.node,
        incarnation=node.endpoint.incarnation,
        egress=tuple(
            _egress(node, spec, now) for i, spec in node.ownership.specs.items() if i != PROPOSER_LEASE
        ),
        members=tuple(_member(node, name, now) for name in node.egress_nodes),
        voters=voters.members,
        voter_set=voters.version,
        isolated=node.isolated(now),
        counters=dict(node.endpoint.counters),
        conflicts=node.conflicts.conflicts(now),
        changes=tuple(node.ownership.history.changes),
        problems=(*problems, *_problems(node, late, foreign, now)),
        unfit=node.agreement.unfit(),
        keys=_keys(node, now) if keys else None,
        failures=failures,
        heartbeats=node.heartbeats,
        kinds={**dict.fromkeys(late, LATE), **dict.fromkeys(foreign, FOREIGN_KEY)},
    )


def _problems(node: LeaseNode, late: tuple[str, ...], foreign: tuple[str, ...], now: int) -> tuple[str, ...]:
    """Return the problems of this node and of the messages it receives.

    ``late``, ``foreign``: problems of two kinds.
    """
    return (
        *node.occupied.values(),
        *_missing_recorded_voters(node, now),
        *late,
        *_receives_from_none(node, now),
        *foreign,
        *node.endpoint.peer_keys.problems(node.config.node),
        *node.agreement.problems(node.config.node),
        *node.strays.problems(node.config),
    )


def unconfigured(problems: tuple[str, ...]) -> KeeperState:
    """Return the state of a daemon that has not been able to apply any configuration."""
    return KeeperState("", UNCONFIGURED, (), (), (), 0, True, {}, problems=problems)


def _egress(node: LeaseNode, spec: EgressIPSpec, now: int) -> EgressState:
    following = node.ownership.master_table.of(spec.id)
    holds = node.ownership.holds(spec.id, now)
    mine = node.config.node in spec.eligible
    return EgressState(
        id=spec.id,
        master=following.master,
        epoch=following.epoch,
        since=following.since if following.master else 0.0,
        state="master" if holds else "standby" if mine else "none",
        reason="" if holds else _reason(node, spec, now),
        shown=following.shown if following.master else "",
        without_quorum=following.without_quorum and bool(following.master),
        margin_ms=_margin_ms(node, spec) if holds else None,
    )


def _margin_ms(node: LeaseNode, spec: EgressIPSpec) -> int | None:
    record = node.ownership.egress_ips.find(spec.id)
    return min(record.margins) // MILLISECOND if record and record.margins else None


def _reason(node: LeaseNode, spec: EgressIPSpec, now: int) -> str:
    """Return why there is no master; if there is one and this node is eligible, why this node is not ready."""
    if node.config.node in spec.eligible:
        if node.isolated(now):
            return NO_MAJORITY
        if not spec.ready:
            return spec.reason
    following = node.ownership.master_table.of(spec.id)
    if following.master:
        return following.gone or ""
    if not spec.eligible:
        return "no node is eligible"
    unready = [
        f"{name}: {member.unready.get(spec.id) or member.why_not()}"
        for name in spec.eligible
        if (member := node.failure_detector.get(name)) and (member.isolated or not member.ready_for(spec.id))
    ]
    return following.lost or "; ".join(unready) or "no master yet"


def _member(node: LeaseNode, name: str, now: int) -> MemberState:
    if name == node.config.node:
        unready = [w.reason for w in node.ownership.specs.values() if name in w.eligible and not w.ready]
        reason = NO_MAJORITY if node.isolated(now) else next(iter(unready), "")
        return MemberState(name, True, not reason, reason, 0)
    member = node.failure_detector.get(name)
    if member is None:
        reason = "; ".join(filter(None, ("never received", _unanswered(node, name))))
        return MemberState(name, False, False, reason, -1)
    silent_ns = now - member.received_at
    # An egress node learns this from each heartbeat, other nodes as subscribers.
    alive = silent_ns <= (node.config.duration_ns if node.is_egress else node.ownership.timers.hold_ns)
    silent = f"silent for {silent_ns // MILLISECOND} ms"
    reason = member.why_not() if alive else "; ".join(filter(None, (silent, _unanswered(node, name))))
    return MemberState(name, alive, not reason, reason, silent_ns // MILLISECOND)


def _unanswered(node: LeaseNode, name: str) -> str:
    """Return the text that no program listens on a node; empty if one may."""
    return node.strays.unanswered(name, node.config.port)


def _keys(node: LeaseNode, now: int) -> OwnKeys:
    endpoint, accepting = node.endpoint, node.agreement.accepting()
    mine, *others = map(fingerprint, endpoint.keys.numbers)
    peers = (
        msgspec.structs.replace(row, accepts=tuple(map(fingerprint, accepting[row.node])))
        if row.known and row.node in accepting
        else row
        for row in endpoint.peer_keys.table(now)
    )
    return OwnKeys(mine, (mine, *others), tuple(peers))


def _late(node: LeaseNode, now: int) -> Iterator[str]:
    if problem := node.ownership.lateness.problem(now):
        yield problem


def _receives_from_none(node: LeaseNode, now: int) -> Iterator[str]:
    """Yield the problem that this node receives from no other node, with the addresses and the port it uses."""
    if not node.receives_from_no_peer(now):
        return
    config = node.config
    mine = next((peer.address for peer in config.peers if peer.name == config.node), "no address")
    others = [
        f"{p.name} ({p.address}{', where no program listens' if _unanswered(node, p.name) else ''})"
        for p in config.peers
        if p.egress and p.name != config.node
    ][:4]
    yield (
        f"receives from no other node: it listens on UDP port {config.port} of {mine}, and sends to that port of "
        f"{', '.join(others)}, …: cluster.port and the key must be the same there, and no firewall may stop it"
    )


def _missing_recorded_voters(node: LeaseNode, now: int) -> Iterator[str]:
    silent = node.voter_set.missing_recorded_voters(now)
    if silent:
        yield (
            "elects no master: it remembers no voters, and of those that the ConfigMap "
            f"{recorded_voter_set.NAME} names it receives nothing from {', '.join(silent)} "
            "(should they be gone for good, delete their Node objects)"
        )
