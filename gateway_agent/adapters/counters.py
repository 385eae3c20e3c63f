"""Read all counters of this node's kernel that metrics show."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from cni.kernel import ids
from cni.kernel.errors import KernelError

from ..show.metrics.node_counters import NodeCounters
from .kernel import node_counters
from .probes import refused_packets


def read() -> NodeCounters:
    """Return the counters; what the kernel does not give is None."""
    found = node_counters.read(ids.DEVICE_PREFIX)
    with contextlib.suppress(KernelError):
        found = replace(found, refused=refused_packets.read())
    return found
