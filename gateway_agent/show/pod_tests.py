"""Evaluate the probes of ``egressctl test``: result and source address of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cni.plan import PlanEgressIP

from ..policy.egress_node.pod_probes import Answer, PodAnswer, PodProbe
from .explain import NotKnown
from .snapshot import DIRECT, GATEWAY, NodeSnapshot, no_master_reason, path_verdict

OK, WRONG, UNTESTED = "ok", "wrong", "untested"
Row = dict[str, Any]


class Line(msgspec.Struct, frozen=True, rename="camel"):
    """A line about one egress IP from another node."""

    node: str
    gateway: str = ""
    ip: str = ""
    master: str = ""
    result: str = WRONG
    destination: str = ""
    port: int = 0
    answer: str = ""
    answered_by: str = ""
    milliseconds: float | None = None
    left_as: str = ""
    reason: str = ""


def packed(rows: Iterable[Row]) -> bytes:
    """Return lines, encoded for another node."""
    return msgspec.msgpack.encode(list(rows))


def unpacked(node: str, raw: bytes) -> list[Row]:
    """Return the lines from another node. Raises ValueError."""
    try:
        lines = msgspec.msgpack.decode(raw, type=list[Line])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
    return [{**msgspec.to_builtins(line), "node": node} for line in lines]


def silent(node: str, reason: str) -> Row:
    """Return the line of a node that has not tested."""
    found: Row = msgspec.to_builtins(Line(node, reason=f"this node did not test: {reason}"))
    return found


def chosen(view: NodeSnapshot, gateway: str) -> tuple[PlanEgressIP, ...]:
    """Return the egress IPs of a gateway; of all for an empty name. Raises :class:`NotKnown`."""
    found = tuple(egress for egress in view.plan.egress_ips if not gateway or egress.gateway == gateway)
    if not found:
        names = ", ".join(sorted({egress.gateway for egress in view.plan.egress_ips}))
        raise NotKnown(
            f"no gateway {gateway!r}" if gateway else "there is no gateway", names and f"one of {names}"
        )
    return found


def row(view: NodeSnapshot, egress: PlanEgressIP, probe: PodProbe | None, found: PodAnswer, to: str) -> Row:
    """Return the line about one egress IP. ``to``: the requested destination; empty: none."""
    verdict = path_verdict(view, egress)
    master = verdict.via
    answered = found.answer is not Answer.NONE
    result, reason = _judged(view, egress, probe, found, to)
    outside = found.left_as if master == view.plan.node else found.arrived_as
    return {
        "node": view.plan.node,
        "gateway": egress.gateway,
        "ip": verdict.ip or egress.address,
        "master": master,
        "result": result,
        "destination": probe.destination if probe else to,
        "port": probe.port if probe else 0,
        "answer": found.answer.value if probe else "",
        "answeredBy": found.sender,
        "milliseconds": round(found.milliseconds, 1) if answered else None,
        "leftAs": _written(outside),
        "reason": reason,
    }


def _judged(
    view: NodeSnapshot, egress: PlanEgressIP, probe: PodProbe | None, found: PodAnswer, to: str
) -> tuple[str, str]:
    """Return result and reason."""
    verdict = path_verdict(view, egress)
    if verdict.verdict == DIRECT:
        return WRONG, "no master: packets leave without a gateway (whenNoGateway: Direct)"
    if verdict.verdict != GATEWAY:
        return WRONG, verdict.path if verdict.via else f"no master: {no_master_reason(view, egress)}"
    if probe is None:
        return UNTESTED, f"no policy sends anything{f' to {to}' if to else ''} by it"
    if found.left_as is None and found.answer is Answer.NONE:
        return WRONG, "the packet did not leave this node: egressctl explain and doctor say more"
    outside = found.left_as if verdict.via == view.plan.node else found.arrived_as
    shown = outside[0] if outside else ""
    if shown and verdict.ip not in ("", shown):
        return WRONG, f"it left as {shown}, not as {verdict.ip}"
    return _answered(view, verdict.via, found, to)


def _answered(view: NodeSnapshot, master: str, found: PodAnswer, to: str) -> tuple[str, str]:
    nodes = {address: node.name for node in view.inventory.nodes for address in node.addresses}
    if found.answer is Answer.NONE:
        other = f"{to} does not answer at this port" if to else "the next router does not answer: try --to"
        return WRONG, f"no answer: {master} did not send it on, or the answer was lost, or {other}"
    if found.answer in (Answer.EXPIRED, Answer.UNREACHABLE) and found.sender in nodes:
        return WRONG, f"node {nodes[found.sender]} did not send it on: {found.answer.value}"
    if found.answer is Answer.UNREACHABLE and to:
        return WRONG, f"{found.sender} cannot deliver it"
    return OK, "" if found.answer is not Answer.EXPIRED else "as far as the next hop"


def answer(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the answer of ``egressctl test -o json``.

    ``passed``: True if at least one egress IP was tested, and all tested ones are right.
    """
    listed = list(rows)
    results = {each["result"] for each in listed}
    return {"passed": OK in results and WRONG not in results, "tests": listed}


def _written(end: tuple[str, int] | None) -> str:
    if end is None:
        return ""
    address, port = end
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def judged(
    view: NodeSnapshot,
    probes: Mapping[str, PodProbe | None],
    answers: Mapping[PodProbe, PodAnswer],
    to: str,
) -> list[Row]:
    """Return a line for each egress IP. ``probes``: by id."""
    found = ((view.egress(identity), probe) for identity, probe in probes.items())
    return [
        row(view, egress, probe, answers.get(probe, PodAnswer()) if probe else PodAnswer(), to)
        for egress, probe in found
        if egress is not None
    ]
