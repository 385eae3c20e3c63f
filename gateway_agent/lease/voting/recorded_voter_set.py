"""The voter set that the cluster has on record, as the lease uses it.

The record is a ConfigMap: :mod:`gateway_agent.kubernetes.voter_configmap`.
"""

from __future__ import annotations

from collections.abc import Collection

from .protocol import is_majority
from .voter_set import VoterSet

NAME = "egress-gateway-voters"
"""Name of the ConfigMap. The manifests create it without data: an agent may change it, but create none."""


def has_majority_in(recorded: VoterSet | None, nodes: Collection[str]) -> VoterSet | None:
    """Return the ``recorded`` set if ``nodes``, those of the inventory, have a majority of it, else None.

    A set whose majority is gone can never vote again, so no node waits for it.
    """
    return recorded if recorded is not None and is_majority(nodes, recorded.members) else None
