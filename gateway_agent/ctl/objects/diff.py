"""Implement ``egressctl diff``: compare the manifests of a directory with those of the store, by plans of this node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cni.calls import attachments
from cni.calls.attachments import Attachment
from cni.kernel.errors import KernelError
from cni.kernel.netlink.conntrack import ctnetlink
from cni.plan import Plan, PodIdentity

from ...agent.plan_file import PlanFile
from ...agent.pods.pod_policies import identity
from ...agent.rounds import planning
from ...config import AgentConfig
from ...manifests.model import Inventory
from ...policy import planner
from ...show import plan_diff
from ...show.plan_diff import Pod, PodChange
from ..client import NoAnswer
from . import stored_objects
from .trial_plans import MTU
from .validate import Outcome, validate

ELSEWHERE = "connections of pods on other nodes are not counted: run egressctl diff there"


def checked(path: Path) -> Outcome:
    """Validate a directory of manifests. Raises :class:`NoAnswer` if ``path`` is no directory."""
    if not path.is_dir():
        raise NoAnswer(f"{path} is no directory", "a directory holds all manifests of a store")
    return validate([path])


def diff(config: AgentConfig, edit: Outcome) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the answer of ``egressctl diff -o json``, and remarks about connections that are not counted.

    ``edit``: the valid manifests. Raises :class:`NoAnswer` if the present manifests cannot be read.
    """
    try:
        present = stored_objects.inventory(config)
    except OSError as error:
        hint = "store.path in the agent's configuration names the directory"
        raise NoAnswer(f"the present manifests cannot be read: {error}", hint) from error
    records, troubles = attachments.load_all(config.run_dir)
    pods = [_of_record(record, present, edit.inventory, config.node_name) for record in records]
    last = PlanFile(config.run_dir).read()
    before = _plan(config, present, [pod.before for pod in pods], last)
    after = _plan(config, edit.inventory, [pod.after for pod in pods], last)
    pods += _documented(present, edit, {(r.namespace, r.name) for r in records}, config.node_name)
    found = tuple(plan_diff.of_pods(before, after, pods))
    remarks = [*troubles]
    counts: Mapping[int, int] | None = None
    try:
        counts = _ended(found)
    except KernelError as error:
        remarks.append(f"connections are not counted: {error}")
    if any(node.name != config.node_name for node in present.nodes):
        remarks.append(ELSEWHERE)
    addresses = plan_diff.of_addresses(before, after)
    return plan_diff.shown(found, addresses, counts, config.node_name), tuple(remarks)


def _of_record(record: Attachment, present: Inventory, edit: Inventory, node: str) -> Pod:
    return Pod(identity(record, present), identity(record, edit), node, record.addresses)


def _documented(present: Inventory, edit: Outcome, here: set[tuple[str, str]], node: str) -> list[Pod]:
    """Return the pods with a document in both inventories that are not known to be on this node."""
    after = edit.inventory.pods_by_name
    return [
        Pod(pod, after[key], edit.bound.get(key, ""))
        for key, pod in sorted(present.pods_by_name.items())
        if key in after and key not in here and key not in present.on_host and edit.bound.get(key) != node
    ]


def _plan(config: AgentConfig, inventory: Inventory, pods: list[PodIdentity], last: Plan | None) -> Plan:
    """Return the plan of this node, without the parts that depend on its interfaces, which change no exit of a pod."""
    settings = planning.settings(config, config.tunnel_mtu or MTU, {})
    return planner.build(inventory, settings, {}, {}, last, [*pods, *inventory.pods]).plan


def _ended(found: tuple[PodChange, ...]) -> Mapping[int, int]:
    """Return the number of connections of this node's pods that end, by index in ``found``. Raises KernelError."""
    sources = {address for each in found for address in each.pod.addresses}
    known = ctnetlink.open_connections(sources) if sources else ()
    return {place: each.ends(known) for place, each in enumerate(found) if each.pod.addresses}
