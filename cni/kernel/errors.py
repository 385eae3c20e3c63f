"""Refusals of the kernel as errors with a hint."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass


class KernelError(Exception):
    """``message`` names the refused change and the reason, ``hint`` a place to look at (may be empty)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


@dataclass(frozen=True)
class Refusal:
    """A change that the kernel has refused, while the others were made."""

    egress_id: str
    """Id of the one egress IP that lacks the change; empty if others lack it, too."""
    error: KernelError


@dataclass(frozen=True)
class Outcome:
    """The result of bringing the kernel to a plan."""

    done: tuple[str, ...] = ()
    """A description of each change; empty: nothing had to be changed."""
    refused: tuple[Refusal, ...] = ()
    """The first refusal of each egress IP that lacks a change."""


HINTS = {
    errno.EPERM: "needs CAP_NET_ADMIN in the node's network namespace",
    errno.EACCES: "needs CAP_NET_ADMIN in the node's network namespace",
    errno.EOPNOTSUPP: "the kernel lacks this feature: VXLAN and policy routing are needed",
    errno.EADDRINUSE: "another program or VXLAN device uses the tunnel's UDP port: set tunnel.port",
    errno.ENODEV: "the interface is gone",
    errno.ENOBUFS: "the kernel is short of memory",
}


def refused(what: str, code: int) -> KernelError:
    """Return the error for ``what``, which the kernel has answered with error number ``code``."""
    return KernelError(f"{what}: {os.strerror(code)}", HINTS.get(code, ""))
