"""Describe pods with unknown labels or interfaces: problems in status, and reasons for refused starts."""

from __future__ import annotations

from collections.abc import Iterable

from cni.calls.attachments import Attachment

from ... import printable
from ...manifests.model import Problem

HINT = (
    "give it a Pod document in the store, or its network args.cni.labels in the CNI configuration; "
    "the manual says how labels of podman and containerd containers are found"
)
REMEMBERED_S = 600.0
"""Seconds for which status lists a refused start. By then the runtime has removed the container."""
MAX_REFUSALS = 64
"""Largest number of refused starts that are remembered."""


def refused(record: Attachment, policies: Iterable[str], why: str = "") -> Problem:
    """Return the problem of a refused start. ``why``: why the container engine gave no labels; may be empty."""
    message = f"not started: its labels are not known, and policy {', '.join(policies)} may select it"
    return Problem(record.subject, "", message + (f" ({why})" if why else ""), HINT)


def running(record: Attachment, policies: Iterable[str], why: str = "") -> Problem:
    """Return the problem of a running pod with unknown labels that a policy may select. ``why``: as in refused()."""
    now = "keeps its tag" if record.group else "uses no gateway"
    message = f"its labels are not known, and policy {', '.join(policies)} may select it: it {now}"
    return Problem(record.subject, "", message + (f" ({why})" if why else ""), HINT)


def unseen(records: Iterable[Attachment]) -> tuple[Problem, ...]:
    """Return one problem for all pods whose network namespaces are not visible; mostly none is visible then."""
    found = sorted((record.subject, record.netns) for record in records if record.named)
    if not found:
        return ()
    first, netns = found[0]
    others = f", and those of {len(found) - 1} more pods" if len(found) > 1 else ""
    message = (
        f"{netns or 'the network namespace'} of {first} cannot be seen from here{others}: only the veths that the "
        "CNI result names are tagged, and packets of such a pod by another veth use no gateway"
    )
    hint = "an agent in a container needs /run/netns of the node, with mountPropagation HostToContainer"
    return (Problem("network namespaces", "", message, hint),)


class Refusals:
    """Remembers refused starts by the name of the pod."""

    def __init__(self) -> None:
        self._noted: dict[str, tuple[float, Problem]] = {}

    def note(self, refusal: Problem, now: float) -> None:
        """Remember a refused start. ``now``: monotonic clock, seconds."""
        self._noted.pop(refusal.source, None)
        self._noted[refusal.source] = now, refusal
        while len(self._noted) > MAX_REFUSALS:
            del self._noted[next(iter(self._noted))]

    def started(self, record: Attachment) -> None:
        """Forget the refused starts of a pod that has started."""
        self._noted.pop(printable.printable(record.subject), None)

    def problems(self, now: float) -> tuple[Problem, ...]:
        """Return the problems of the starts that were refused in the last REMEMBERED_S seconds."""
        return tuple(problem for since, problem in self._noted.values() if now - since < REMEMBERED_S)
