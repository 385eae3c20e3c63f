"""Ask the kernel how it would route packets that come out of a tunnel, or from a pod."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable

from cni.kernel.netlink import messages, routes
from cni.kernel.netlink.constants import RTA_GATEWAY, RTA_OIF
from cni.kernel.netlink.netlink_socket import Socket

from ...policy.egress_node.exit_paths import Found, Lookup, SourceRefusal
from ...policy.egress_node.readiness import STRICT
from .interfaces import sysctl


def ask(lookups: Iterable[Lookup]) -> dict[Lookup, Found]:
    """Return the kernel's answers; there is none for a tunnel that does not exist, or if the kernel cannot be asked."""
    found: dict[Lookup, Found] = {}
    with contextlib.suppress(OSError), Socket() as kernel:
        for lookup in lookups:
            with contextlib.suppress(OSError):
                index = _arrival(kernel, lookup)
                found[lookup] = _ask(kernel, lookup, index)
    return found


def _arrival(kernel: Socket, lookup: Lookup) -> int:
    """Return the number of the interface by which the packet arrives. Raises OSError if there is none."""
    if lookup.device:
        return socket.if_nametoindex(lookup.device)
    return messages.integer(routes.lookup(kernel, lookup.source).get(RTA_OIF, b""))


def _ask(kernel: Socket, lookup: Lookup, index: int) -> Found:
    try:
        answer = routes.lookup_forwarded(kernel, lookup.destination, lookup.source, index, lookup.mark)
    except OSError as error:
        # EXDEV before Linux 6.13. A route of type blackhole is EINVAL, too.
        refused = error.errno in (errno.EINVAL, errno.EXDEV)
        refusal = _source_refusal(kernel, lookup, index) if refused else None
        return Found(error=os.strerror(error.errno or 0), refusal=refusal)
    out = messages.integer(answer.get(RTA_OIF, b""))
    return Found(socket.if_indextoname(out) if out else "", messages.address(answer.get(RTA_GATEWAY, b"")))


def _source_refusal(kernel: Socket, lookup: Lookup, index: int) -> SourceRefusal | None:
    """Return why the kernel's check of sources refuses the packet of a lookup; None if it does not. IPv6 has none.

    ``index``: number of the tunnel's interface.
    """
    if ":" in lookup.destination:
        return None
    checked = max(int(sysctl(f"ipv4/conf/{place}/rp_filter") or 0) for place in ("all", lookup.device))
    try:
        back = messages.integer(routes.lookup(kernel, lookup.source).get(RTA_OIF, b""))
    except OSError:
        return SourceRefusal.UNROUTED if checked else None
    return SourceRefusal.STRICT if checked == STRICT and back != index else None
