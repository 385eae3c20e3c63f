"""The voter set that the cluster has on record, as the lease uses it.

The record is a ConfigMap: :mod:`gateway_agent.kubernetes.voter_configmap`.
"""

from __future__ import annotations

from collections.abc import Collection

from .protocol import is_majority
from .voter_set import VoterSet

NAME = "egress-gateway-voters"
"""Name of the ConfigMap. The ConfigMap comes with the manifests, without data: an agent may change it and make no
other."""


def has_majority_in(recorded: VoterSet | None, nodes: Collection[str]) -> VoterSet | None:
    """Return the ``recorded`` set if ``nodes``, those of the inventory, have a majority of it, else None.

    A set whose majority is gone can never vote again and holds back no node.
    """
    return recorded if recorded is not None and is_majority(nodes, recorded.members) else None
