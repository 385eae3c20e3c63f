"""Read the counters of this node's kernel for metrics."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from cni.kernel import ids
from cni.kernel.errors import KernelError

from ..show.metrics.node_counters import NodeCounters
from .kernel import node_counters
from .probes import refused_packets


def read() -> NodeCounters:
    """Return the counters; a counter that the kernel lacks is None."""
    found = node_counters.read(ids.DEVICE_PREFIX)
    with contextlib.suppress(KernelError):
        found = replace(found, refused=refused_packets.read())
    return found
