"""Explain step by step what happens to a pod's packets to a destination, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cni.calls.attachments import Attachment
from cni.kernel import ids
from cni.plan import PlanEgressIP, PodIdentity, PolicySet

from ..manifests import prefixes
from ..manifests.prefixes import Family
from ..policy import planner, precedence
from ..policy.egress_node import exit_paths
from ..policy.egress_node.exit_paths import Found
from .explain_selection import Step, policy_steps, step
from .snapshot import (
    DIRECT,
    DROPPED,
    GATEWAY,
    UNATTACHED,
    NodeSnapshot,
    PathVerdict,
    master,
    no_master_reason,
    path_verdict,
)

MAX_PREFIXES = 4
"""Prefixes listed in a step; ``ways`` has all of them."""
MAX_EXCEPTIONS = 16
"""Prefixes listed in a step of the form "all addresses except"."""


class NotKnown(LookupError):
    """The pod or the destination is unknown. ``hint``: how to ask instead."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class _Subject:
    """The pod that is explained."""

    pod: PodIdentity
    attachment: Attachment | None
    policy_set: PolicySet | None
    blocked: bool
    """True if the pod is selected but has no policy set: all its packets are dropped."""


def explain(view: NodeSnapshot, pod: str, destination: str = "") -> dict[str, Any]:
    """Return the answer of ``egressctl explain POD [DESTINATION] -o json``. Raises :class:`NotKnown`.

    ``pod``: ``namespace/name``, or a unique name. Without ``destination`` the answer has all egress IPs that the pod
    uses, each with its prefixes (``ways``).
    """
    subject = _subject(view, *_find(view, pod))
    named = f"{subject.pod.namespace}/{subject.pod.name}"
    steps = [_pod_step(view, subject), *policy_steps(view, subject.pod), _tag_step(view, subject)]
    answer: dict[str, Any] = {"pod": named, "destination": destination}
    if subject.attachment is None:
        end = _unattached(view, subject.pod)
        steps.append(step("path", end.verdict, end.path))
    elif subject.blocked:
        end = PathVerdict(
            DROPPED, path="the interface has a tag without a policy set, so its packets are dropped"
        )
        steps.append(step("path", end.verdict, end.path))
    elif destination:
        egress = _to(view, subject, destination, steps)
        end = _by(view, egress, steps, _family(destination))
        if egress is not None and egress.id in view.exits:
            end = _out(egress, destination, view.exits[egress.id], steps, end)
    else:
        answer["ways"], end = _all_destinations(view, subject, steps)
    return {**answer, "steps": steps, **_ending(end)}


def _ending(end: PathVerdict) -> dict[str, str]:
    return {"verdict": end.verdict, "via": end.via, "ip": end.ip}


def _find(view: NodeSnapshot, asked: str) -> tuple[str, str]:
    known = {(a.namespace, a.name) for a in view.attachments}
    known |= {(p.namespace, p.name) for p in view.inventory.pods} | view.beside.keys()
    namespace, slash, name = asked.rpartition("/")
    found = sorted(pod for pod in known if pod[1] == name and (not slash or pod[0] == namespace))
    if len(found) > 1:
        full = ", ".join("/".join(pod) for pod in found)
        raise NotKnown(f"{len(found)} pods are named {name!r}", f"one of {full}")
    if not found:
        hint = "egressctl pods lists what is attached here; other pods need a Pod document"
        raise NotKnown(f"no pod {asked!r} is known on node {view.plan.node}", hint)
    return found[0]


def _subject(view: NodeSnapshot, namespace: str, name: str) -> _Subject:
    mine = [a for a in view.attachments if (a.namespace, a.name) == (namespace, name)]
    attachment = min(mine, key=lambda a: (not a.group, a.ifname), default=None)
    call_labels, uid = (attachment.labels, attachment.uid) if attachment else (None, "")
    if attachment is None and (namespace, name) in view.beside:
        call_labels = view.beside[namespace, name].container.labels
    pod = planner.identify(view.inventory, namespace, name, call_labels, uid)
    if attachment is not None:
        policy_set = view.set_of(attachment) if attachment.group else None
        return _Subject(pod, attachment, policy_set, bool(attachment.group) and policy_set is None)
    return _Subject(pod, None, None, blocked=False)


def _unattached(view: NodeSnapshot, pod: PodIdentity) -> PathVerdict:
    """Return the verdict on a pod without an attached interface on this node."""
    key = (pod.namespace, pod.name)
    if key in view.inventory.on_host:
        return PathVerdict(
            DIRECT,
            path="it uses its node's network: its packets leave with the node's address despite all policies",
        )
    if key in view.beside:
        return PathVerdict(DIRECT, path=view.beside[key].problem.message)
    if view.inventory.knows_pods:
        return PathVerdict(
            DIRECT, path="it runs here, but the plugin was not called for it: it uses no gateway"
        )
    return PathVerdict(
        UNATTACHED, path="ask on the node that it runs on; if that is this node, it uses no gateway"
    )


def _pod_step(view: NodeSnapshot, subject: _Subject) -> Step:
    pod, attachment = subject.pod, subject.attachment
    documented = pod in view.inventory.pods
    key = (pod.namespace, pod.name)
    has_labels = attachment is not None and attachment.labels is not None
    engine = "its container engine" if attachment is None and key in view.beside else ""
    origin = (
        "its Pod document" if documented else "its CNI call or container engine" if has_labels else engine
    )
    labels = f"labels of {origin}: {_written(pod.labels or {})}" if origin else "its labels are not known"
    if key in view.inventory.on_host:
        return step("pod", "uses its node's network", labels)
    if attachment is None:
        return step("pod", "not attached to this node", labels)
    return step("pod", f"attached by {attachment.host_interface or 'no known interface'}", labels)


def _written(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none"


def _tag_step(view: NodeSnapshot, subject: _Subject) -> Step:
    known = view.plan.policies_for(subject.pod)
    asked = known or ()
    asked_names = ", ".join(asked) or ("no policy" if known is not None else "unknown policies")
    if subject.attachment is None:
        return step("tag", "none", f"no interface of it is known here; its labels ask for {asked_names}")
    have = subject.policy_set.policies if subject.policy_set else ()
    late = "" if have == asked and known is not None else f"its labels now ask for {asked_names}"
    if subject.blocked:
        return step("tag", "blocked", f"group {subject.attachment.group:#x} has no policy set")
    if subject.policy_set is None:
        return step("tag", "none", late or "no policy selects it")
    return step("tag", f"{subject.policy_set.group - ids.GROUP_BASE}: {', '.join(have)}", late)


def _to(view: NodeSnapshot, subject: _Subject, destination: str, steps: list[Step]) -> PlanEgressIP | None:
    """Return the egress IP of packets to ``destination``, and add the step; None if they are not steered.

    Raises :class:`NotKnown` if ``destination`` is no address.
    """
    try:
        address = prefixes.address(destination)
    except ValueError as error:
        raise NotKnown(str(error), "DESTINATION is an address, as 203.0.113.10") from error
    if subject.policy_set is None:
        steps.append(step("destination", "any", "no policy applies to the pod"))
        return None
    never = planner.never_sent(view.inventory, view.cluster_cidrs)
    entries = planner.entries(view.inventory, subject.policy_set)
    match = precedence.lookup(entries, never, address)
    if match is None:
        steps.append(step("destination", "no policy", _why_none(entries, never, address)))
        return None
    others = [e.name for e in entries if e is not match.entry and precedence.lookup([e], never, address)]
    reason = f"before {', '.join(others)}: longest prefix, then age, then name" if others else ""
    steps.append(step("destination", f"{match.prefix} of policy {match.entry.name}", reason))
    return view.egress(match.entry.leads_to(_family(address)))


def _family(text: str) -> Family:
    """Return the family of an address or a prefix."""
    return 6 if ":" in text else 4


def _why_none(entries: tuple[precedence.Entry, ...], never: Mapping[str, str], address: str) -> str:
    banned = precedence.holding(never, address)
    if banned is not None:
        return f"{banned} goes to no gateway: {never[banned]}"
    reasons = []
    for entry in entries:
        excluded = precedence.holding(entry.excluded, address)
        reason = f"excluded by {excluded}" if excluded else "not among its destinations"
        reasons.append(f"{entry.name}: {reason}")
    return "; ".join(reasons)


def _by(view: NodeSnapshot, egress: PlanEgressIP | None, steps: list[Step], family: int) -> PathVerdict:
    """Add the steps from the gateway on for packets of this family, and return the verdict."""
    if egress is None:
        steps.append(step("path", DIRECT, "as if there were no egress gateway"))
        return PathVerdict(DIRECT)
    name, epoch = master(view, egress)
    end = path_verdict(view, egress, family)
    steps.append(step("gateway", f"{egress.gateway} {egress.address}".rstrip(), egress.mode))
    if name:
        steps.append(step("master", name, f"epoch {epoch}"))
    else:
        steps.append(step("master", "none", no_master_reason(view, egress)))
    steps.append(step("path", end.verdict, end.path))
    return end


def _out(
    egress: PlanEgressIP, destination: str, found: Found, steps: list[Step], end: PathVerdict
) -> PathVerdict:
    """Add the step out of this node, which is the master, and return the verdict."""
    if fault := exit_paths.fault(egress, destination, found):
        steps.append(step("exit", "none", fault))
        return PathVerdict(DROPPED, end.via, end.ip, fault)
    via = f"next hop {found.next_hop}" if found.next_hop else "on the link"
    steps.append(step("exit", found.interface, via))
    return end


def _destinations(reached: list[str], family: Family) -> Step:
    """Return the destination step in the shorter of two forms: a list of prefixes, or all addresses except some."""
    others = prefixes.complement(family, reached)
    everything = f"all of IPv{family}"
    if not others:
        return step("destination", everything)
    if len(others) < len(reached):
        return step("destination", f"{everything} but", _first(others, MAX_EXCEPTIONS))
    count = f"{len(reached)} prefix{'es' * (len(reached) != 1)}"
    return step("destination", count, _first(reached, MAX_PREFIXES))


def _first(texts: list[str], number: int) -> str:
    return ", ".join(texts[:number]) + (f", and {len(texts) - number} more" if len(texts) > number else "")


def _all_destinations(
    view: NodeSnapshot, subject: _Subject, steps: list[Step]
) -> tuple[list[dict[str, Any]], PathVerdict]:
    """Return each egress IP with its prefixes, and the verdict of the first one with a master, else of the first."""
    by_egress: dict[tuple[str, Family], list[str]] = {}
    for each in subject.policy_set.destinations if subject.policy_set else ():
        by_egress.setdefault((each.egress_id, _family(each.prefix)), []).append(each.prefix)
    destinations: list[dict[str, Any]] = []
    ends: list[PathVerdict] = []
    for (egress_id, family), reached in by_egress.items():
        egress = view.egress(egress_id)
        steps.append(_destinations(reached, family))
        end = _by(view, egress, steps, family)
        gateway = egress.gateway if egress else ""
        destinations.append({"gateway": gateway, "prefixes": reached, **_ending(end)})
        ends.append(end)
    if not ends:
        ends.append(_by(view, None, steps, 0))
    return destinations, next((end for end in ends if end.verdict == GATEWAY), ends[0])
