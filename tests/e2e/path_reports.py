"""Read what a node reports about the paths of packets through it."""

from __future__ import annotations

import json

from ..lab.agent import EGRESSCTL
from ..lab.lab import Lab

NAMED_S = 5.0
"""Seconds within which status names a fault of the path."""


def reason_of(lab: Lab, node: str) -> str:
    """Return why a node is not ready, as the worker knows it; empty if the node is ready."""
    members = lab.nodes["w1"].agent.status()["members"]
    return next(str(member["reason"]) for member in members if member["node"] == node)


def examined(lab: Lab, node: str, part: str = "path of ") -> list[str]:
    """Return what ``egressctl doctor`` finds of the paths through a node. ``part``: begin of the findings' names."""
    doctor = f"{EGRESSCTL} --config {lab.nodes[node].agent.config} doctor -o json || true"
    findings = json.loads(lab.nodes[node].machine.run("sh", "-c", doctor))
    return [str(each["found"]) for each in findings if each["what"].startswith(part)]
