"""Pods of which too little is known, labels or interfaces: what status says, and what a refused start is told."""

from __future__ import annotations

from collections.abc import Iterable

from cni.attachments import Attachment

from .. import printable
from ..manifests.model import Problem

HINT = (
    "give it a Pod document in the store, or its network args.cni.labels in the CNI configuration; "
    "the manual says how labels of podman and containerd containers are found"
)
REMEMBERED_S = 600.0
"""Seconds that status names a start that was refused: after it the runtime has taken the container away."""
MOST = 64
"""Refused starts that are remembered."""


def named(record: Attachment) -> str:
    """Return what an owner knows the pod by: namespace and name, else the container's id."""
    return f"pod {record.namespace}/{record.name}" if record.name else f"container {record.container_id[:12]}"


def refused(record: Attachment, policies: Iterable[str], why: str = "") -> Problem:
    """Say that a start was refused. ``why``: what the container engine's store did not tell."""
    message = f"not started: its labels are not known, and policy {', '.join(policies)} may select it"
    return Problem(named(record), "", message + (f" ({why})" if why else ""), HINT)


def running(record: Attachment, policies: Iterable[str], why: str = "") -> Problem:
    """Say that a pod runs of which nobody knows whether a policy selects it."""
    now = "keeps the tag that it has" if record.group else "leaves by its own way"
    message = f"its labels are not known, and policy {', '.join(policies)} may select it: it {now}"
    return Problem(named(record), "", message + (f" ({why})" if why else ""), HINT)


def unseen(records: Iterable[Attachment]) -> tuple[Problem, ...]:
    """Say that network namespaces of pods cannot be seen: one problem, since then mostly none can."""
    found = sorted((named(record), record.netns) for record in records if record.named)
    if not found:
        return ()
    first, netns = found[0]
    others = f", and those of {len(found) - 1} more pods" if len(found) > 1 else ""
    message = (
        f"{netns or 'the network namespace'} of {first} cannot be seen from here{others}: only the veths are tagged "
        "that the CNI result names, and what such a pod sends by another one leaves by its own way"
    )
    hint = "an agent in a container needs /run/netns of the node, with mountPropagation HostToContainer"
    return (Problem("network namespaces", "", message, hint),)


class Refusals:
    """The starts that were refused, by the name of the pod."""

    def __init__(self) -> None:
        self._noted: dict[str, tuple[float, Problem]] = {}

    def note(self, refusal: Problem, now: float) -> None:
        """Remember a refused start. ``now``: seconds of a clock that does not go back."""
        self._noted.pop(refusal.source, None)
        self._noted[refusal.source] = now, refusal
        while len(self._noted) > MOST:
            del self._noted[next(iter(self._noted))]

    def started(self, record: Attachment) -> None:
        """Forget the refusals of a pod that has been started."""
        self._noted.pop(printable.printable(named(record)), None)

    def problems(self, now: float) -> tuple[Problem, ...]:
        """Return the refusals that are not too old."""
        return tuple(problem for since, problem in self._noted.values() if now - since < REMEMBERED_S)
