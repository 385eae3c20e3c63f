"""Parse untrusted documents of container engines into plain data, and find containers that no tag steers."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cni.calls.cni_request import DEFAULT_NAMESPACE
from cni.plan import PlanPolicy, PodIdentity

from ..manifests.model import Inventory, Problem
from ..policy import planner

RUNNING = (3, 5)
"""States of a podman container with processes: running and paused (``libpod/define/containerstate.go``)."""
OWN, HOST, SHARED, NONE = "own", "host", "shared", "none"
"""Network of a container: its own namespace, the node's, that of another container, or none."""
FORWARDED = ("slirp4netns", "pasta")
"""Network modes in which a process on the node sends the container's packets."""
NERDCTL_NAME = "nerdctl/name"
"""Label in which nerdctl stores the name of a container."""
MAX_SPLITS = 4
"""Largest number of splits of an id into namespace and name that are tried. Each one costs a request."""
NOT_TEXT = "labels are not a mapping of texts"


class EngineError(Exception):
    """An engine's store gives no answer; the message has the reason."""


@dataclass(frozen=True)
class Container:
    """A container in the store of its engine."""

    id: str
    name: str
    labels: Mapping[str, str]
    pid: int = 0
    """Pid of its first process; 0 if none is known to run."""
    network: str = OWN
    shares: str = ""
    """Id of the container whose network it uses; empty if it shares none."""
    run_dir: str = ""
    """The container's directory of this boot, which is gone after the next boot; empty: not known."""


@dataclass(frozen=True)
class Listing:
    """All containers of an engine. ``backend``: its network backend, ``cni`` or ``netavark``; empty if unknown."""

    engine: str
    backend: str = ""
    containers: tuple[Container, ...] = ()
    broken: tuple[str, ...] = ()
    """Errors of entries that could not be parsed."""


@dataclass(frozen=True)
class Beside:
    """A running container that a policy selects but no tag can steer."""

    container: Container
    problem: Problem

    @property
    def pod(self) -> tuple[str, str]:
        """Return the namespace and the name by which ``explain`` knows it."""
        return DEFAULT_NAMESPACE, self.container.name


def of_podman(config: bytes | str, state: bytes | str = b"{}", pod: bytes | str = b"{}") -> Container:
    """Parse a container from the JSON of its configuration, its state, and its pod. Raises ValueError."""
    about, now, around = (_object(text) for text in (config, state, pod))
    labels = _labels(about.get("labels"))
    if about.get("pause") is True:
        # The infra container, which holds the network of a podman pod: its owner gave labels to the pod only.
        labels |= _labels(around.get("labels"))
    name = _text(about.get("name"))
    if about.get("pause") is True and isinstance(around.get("name"), str):
        # CNI calls use the name of the pod, too.
        name = around["name"]
    shares = about.get("netNsCtr") or ""
    pid = now.get("pid") if now.get("state") in RUNNING else 0
    network = SHARED if shares else _network(about, now)
    run_dir = now.get("runDir")
    return Container(
        _text(about.get("id")),
        name,
        labels,
        pid if isinstance(pid, int) else 0,
        network,
        _text(shares),
        run_dir if isinstance(run_dir, str) else "",
    )


def _network(about: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the network of a podman container that does not share another container's."""
    if about.get("networkMode") in FORWARDED:
        return HOST
    if about.get("createNetNS") is True:
        return OWN if now.get("networkStatus") else NONE
    # In mode "none", podman leaves the namespace to the runtime. With the node's network there is no entry.
    spec = about.get("spec")
    linux = spec.get("linux") if isinstance(spec, dict) else None
    spaces = linux.get("namespaces") if isinstance(linux, dict) else None
    for space in spaces if isinstance(spaces, list) else ():
        if isinstance(space, dict) and space.get("type") == "network":
            return OWN if space.get("path") else NONE
    return HOST


def of_containerd(text: bytes | str) -> Container:
    """Parse the answer of ``ctr containers info``. Raises ValueError."""
    about = _object(text)
    labels = _labels(about.get("Labels"))
    name = _text(about.get("ID"))
    return Container(name, labels.get(NERDCTL_NAME, name), labels)


def containerd_names(container_id: str) -> Iterator[tuple[str, str]]:
    """Yield the possible (namespace, id) of a CNI call's container id: nerdctl and ctr join both with a hyphen."""
    parts = container_id.split("-")
    for at in range(1, min(len(parts), MAX_SPLITS + 1)):
        namespace, name = "-".join(parts[:at]), "-".join(parts[at:])
        if namespace and name:
            yield namespace, name


def beside(listing: Listing, attached: Collection[str], inventory: Inventory) -> Iterator[Beside]:
    """Yield each running container that a policy selects but no tag can steer.

    ``attached``: ids of the containers that had a CNI call.
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
    """Return a container as a pod in the default namespace, because engines have no namespaces."""
    return planner.identify(inventory, DEFAULT_NAMESPACE, container.name, container.labels)


def _problem(
    listing: Listing, container: Container, owner: Container | None, policies: Iterable[str]
) -> Problem:
    source = f"container {container.name or container.id[:12]}"
    selected = f"policy {', '.join(policies)} selects it, but"
    if container.network == HOST:
        why = f"{selected} it uses the node's network, and its packets leave with the node's address"
        hint = "let no policy select it, or give it a network of its own"
    elif container.network == SHARED:
        other = owner.name if owner else container.shares[:12]
        why = f"{selected} it uses the network of container {other}, and its packets take the same path"
        hint = "give the labels to the container or the pod that has the network"
    elif listing.backend == "netavark":
        why = (
            f"{selected} {listing.engine}'s network backend is netavark, which calls no CNI plugin: "
            "it uses no gateway"
        )
        hint = 'network_backend = "cni" in containers.conf, see the manual; then create its network and itself again'
    else:
        why = f"{selected} {listing.engine} did not call the plugin for it: it uses no gateway"
        hint = "chain the plugin into its network and restart it; see the manual for podman with netavark"
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
