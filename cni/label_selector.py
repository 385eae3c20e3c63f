"""Label selectors of Kubernetes: which pods and nodes they match."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NAMESPACE_LABEL = "io.kubernetes.pod.namespace"
"""Label that every pod has for matching: the value is its namespace, whatever the labels of the pod are."""
NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""Label that the API server gives each namespace: its name."""


@dataclass(frozen=True)
class Requirement:
    """One term of a Kubernetes label selector. ``matchLabels: {k: v}`` is ``k In (v,)``."""

    key: str
    operator: str
    """``In``, ``NotIn``, ``Exists`` or ``DoesNotExist``."""
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Return True if the labels meet the requirement."""
        value = labels.get(self.key)
        if self.operator == "Exists":
            return value is not None
        if self.operator == "DoesNotExist":
            return value is None
        if self.operator == "In":
            return value in self.values
        return value is None or value not in self.values


def matches(requirements: Iterable[Requirement], labels: Mapping[str, str]) -> bool:
    """Return True if every requirement holds. No requirement at all matches everything, as in Kubernetes."""
    return all(requirement.holds(labels) for requirement in requirements)


@dataclass(frozen=True)
class PodIdentity:
    """A pod as its CNI call and the store know it. ``labels`` is None if they are not known."""

    namespace: str
    name: str
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Selector:
    """Pods by their labels and, if ``namespaces`` is given, by the labels of their namespace."""

    pods: tuple[Requirement, ...] = ()
    namespaces: tuple[Requirement, ...] | None = None

    def selects(self, pod: PodIdentity, namespace_labels: Mapping[str, str] | None) -> bool | None:
        """Return True or False; None if the answer depends on labels that are not known.

        A namespace without a ``Namespace`` document has no labels but its name.
        """
        known = {NAMESPACE_LABEL: pod.namespace}
        if self.namespaces is not None:
            labels = {NAMESPACE_NAME: pod.namespace, **(namespace_labels or {})}
            if not matches(self.namespaces, labels):
                return False
        if pod.labels is not None:
            return matches(self.pods, {**pod.labels, **known})
        if not all(term.holds(known) for term in self.pods if term.key == NAMESPACE_LABEL):
            return False
        return True if all(term.key == NAMESPACE_LABEL for term in self.pods) else None

    def asks_namespace_of(self, pod: PodIdentity) -> bool:
        """Return True if labels of the pod's namespace, besides its name, can decide whether the pod is selected."""
        by_name = tuple(term for term in self.namespaces or () if term.key == NAMESPACE_NAME)
        if len(by_name) == len(self.namespaces or ()):
            return False
        return Selector(self.pods, by_name).selects(pod, None) is not False
