"""Ask the kernel how it would route packets that come out of a tunnel."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable

from cni.kernel.netlink import messages, routes
from cni.kernel.netlink.constants import RTA_GATEWAY, RTA_OIF
from cni.kernel.netlink.netlink_socket import Socket

from ...policy.egress_node.exit_paths import Found, Lookup


def ask(lookups: Iterable[Lookup]) -> dict[Lookup, Found]:
    """Return the kernel's answers; there is none for a tunnel that does not exist, or if the kernel cannot be asked."""
    found: dict[Lookup, Found] = {}
    with contextlib.suppress(OSError), Socket() as kernel:
        for lookup in lookups:
            with contextlib.suppress(OSError):
                index = socket.if_nametoindex(lookup.device)
                found[lookup] = _ask(kernel, lookup, index)
    return found


def _ask(kernel: Socket, lookup: Lookup, index: int) -> Found:
    try:
        answer = routes.lookup_forwarded(kernel, lookup.destination, lookup.source, index, lookup.mark)
    except OSError as error:
        return Found(error=os.strerror(error.errno or 0))
    out = messages.integer(answer.get(RTA_OIF, b""))
    return Found(socket.if_indextoname(out) if out else "", messages.address(answer.get(RTA_GATEWAY, b"")))
