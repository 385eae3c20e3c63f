"""What the stores of container engines say of containers: documents that may be anything, in; plain data out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cni.cni_request import DEFAULT_NAMESPACE
from cni.plan import PlanPolicy, PodIdentity

from ..manifests.model import Inventory, Problem
from ..policy import planner

RUNNING = (3, 5)
"""States of a podman container with processes: running and paused (``libpod/define/containerstate.go``)."""
OWN, HOST, SHARED, NONE = "own", "host", "shared", "none"
"""Whose network namespace a container uses: its own, the node's, that of another container; or it has no network."""
FORWARDED = ("slirp4netns", "pasta")
"""Network modes in which a process on the node sends what the container sends."""
NERDCTL_NAME = "nerdctl/name"
"""The label under which nerdctl keeps the name of a container."""
MOST_HYPHENS = 4
"""In the name of a containerd namespace, and one more: each is a question of its own."""
NOT_TEXT = "labels are not a mapping of texts"


@dataclass(frozen=True)
class Container:
    """A container as its engine's store has it."""

    id: str
    name: str
    labels: Mapping[str, str]
    pid: int = 0
    """Of its first process; 0: none is known to run."""
    network: str = OWN
    shares: str = ""
    """Id of the container whose network it uses."""


@dataclass(frozen=True)
class Listing:
    """All containers of an engine. ``backend``: who makes their networks, ``cni`` or ``netavark``; empty: unknown."""

    engine: str
    backend: str = ""
    containers: tuple[Container, ...] = ()
    broken: tuple[str, ...] = ()
    """What is wrong with entries that are no containers."""


@dataclass(frozen=True)
class Beside:
    """A container that runs and is selected, though no tag can steer it."""

    container: Container
    problem: Problem

    @property
    def pod(self) -> tuple[str, str]:
        """The namespace and the name by which ``explain`` knows it."""
        return DEFAULT_NAMESPACE, self.container.name


def of_podman(config: bytes | str, state: bytes | str = b"{}", pod: bytes | str = b"{}") -> Container:
    """Return the container with this configuration, state, and configuration of its pod. Raises ValueError."""
    about, now, around = (_object(text) for text in (config, state, pod))
    labels = _labels(about.get("labels"))
    if about.get("pause") is True:
        # The container that holds the network of a podman pod: the labels of the pod are those that its owner gave.
        labels |= _labels(around.get("labels"))
    name = _text(about.get("name"))
    if about.get("pause") is True and isinstance(around.get("name"), str):
        # CNI calls name it so, too.
        name = around["name"]
    shares = about.get("netNsCtr") or ""
    pid = now.get("pid") if now.get("state") in RUNNING else 0
    network = SHARED if shares else _network(about, now)
    return Container(
        _text(about.get("id")), name, labels, pid if isinstance(pid, int) else 0, network, _text(shares)
    )


def _network(about: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return whose network a podman container uses that shares no other container's."""
    if about.get("networkMode") in FORWARDED:
        return HOST
    if about.get("createNetNS") is True:
        return OWN if now.get("networkStatus") else NONE
    # Of "none", podman leaves the namespace to the runtime; of the node's network there is none.
    spec = about.get("spec")
    linux = spec.get("linux") if isinstance(spec, dict) else None
    spaces = linux.get("namespaces") if isinstance(linux, dict) else None
    for space in spaces if isinstance(spaces, list) else ():
        if isinstance(space, dict) and space.get("type") == "network":
            return OWN if space.get("path") else NONE
    return HOST


def of_containerd(text: bytes | str) -> Container:
    """Return the container in the answer of ``ctr containers info``. Raises ValueError."""
    about = _object(text)
    labels = _labels(about.get("Labels"))
    name = _text(about.get("ID"))
    return Container(name, labels.get(NERDCTL_NAME, name), labels)


def containerd_names(container_id: str) -> Iterator[tuple[str, str]]:
    """Yield namespace and id that the id of a CNI call can stand for: nerdctl and ctr join them with a hyphen."""
    parts = container_id.split("-")
    for at in range(1, min(len(parts), MOST_HYPHENS + 1)):
        namespace, name = "-".join(parts[:at]), "-".join(parts[at:])
        if namespace and name:
            yield namespace, name


def beside(listing: Listing, attached: Collection[str], inventory: Inventory) -> Iterator[Beside]:
    """Yield each running container that a policy selects though no tag can steer it.

    ``attached``: ids of the containers that CNI calls have told of.
    """
    by_id = {container.id: container for container in listing.containers}
    policies = planner.policies(inventory)
    for container in listing.containers:
        if container.pid and container.id not in attached and container.network != NONE:
            selecting = _selecting(policies, inventory, container)
            owner = by_id.get(container.shares)
            if owner is not None and owner.id in attached:
                selecting -= _selecting(policies, inventory, owner)
            if selecting:
                yield Beside(container, _problem(listing, container, owner, sorted(selecting)))


def _selecting(policies: Iterable[PlanPolicy], inventory: Inventory, container: Container) -> set[str]:
    pod = identity(inventory, container)
    labels = inventory.namespaces.get(pod.namespace)
    return {policy.name for policy in policies if policy.selects(pod, labels)}


def identity(inventory: Inventory, container: Container) -> PodIdentity:
    """Return the pod that a container is: engines know no namespaces."""
    return planner.identify(inventory, DEFAULT_NAMESPACE, container.name, container.labels)


def _problem(
    listing: Listing, container: Container, owner: Container | None, policies: Iterable[str]
) -> Problem:
    source = f"container {container.name or container.id[:12]}"
    selected = f"policy {', '.join(policies)} selects it, but"
    if container.network == HOST:
        why = f"{selected} it uses the node's network and leaves by the node's address"
        hint = "let no policy select it, or give it a network of its own"
    elif container.network == SHARED:
        other = owner.name if owner else container.shares[:12]
        why = f"{selected} it uses the network of container {other}, and leaves as that one does"
        hint = "give the labels to the container or the pod that has the network"
    elif listing.backend == "netavark":
        why = (
            f"{selected} {listing.engine}'s network backend is netavark, which calls no CNI plugin: "
            "it leaves by its own way"
        )
        hint = 'network_backend = "cni" in containers.conf, as the manual says; then make its network and itself anew'
    else:
        why = f"{selected} {listing.engine} did not call the plugin for it: it leaves by its own way"
        hint = "chain the plugin into its network and start it anew; see the manual for podman with netavark"
    return Problem(source, "", why, hint)


def _object(text: bytes | str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _labels(found: object) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(NOT_TEXT)
    return dict(found)


def _text(found: object) -> str:
    if not isinstance(found, str):
        raise ValueError("a name is no text")
    return found
