"""Follow a probe through the nftables rules of all programs, iptables-nft included, as ``nft monitor trace`` does."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cni.datapath import path_proof
from cni.datapath.nft_blocks import chain, transaction
from cni.kernel import ids
from cni.kernel.netlink import netfilter
from cni.kernel.netlink.constants import (
    NF_DROP,
    NFNLGRP_NFTRACE,
    NFPROTO,
    NFT_MSG_TRACE,
    NFTA_TRACE_CHAIN,
    NFTA_TRACE_POLICY,
    NFTA_TRACE_RULE_HANDLE,
    NFTA_TRACE_TABLE,
    NFTA_TRACE_VERDICT,
    NFTA_VERDICT_CODE,
)
from cni.kernel.netlink.messages import NFGENMSG, Message, attributes, decoded
from cni.kernel.nftables import nft

BUFFER_BYTES = 1 << 18
GROUPS = (NFNLGRP_NFTRACE,)
FAMILIES = {number: name for name, number in NFPROTO.items()}
RAW = "filter hook prerouting priority -400"
"""Hook before the rules of all other programs."""


@dataclass(frozen=True)
class Step:
    """A rule that matched, or the policy of a chain."""

    family: str
    table: str
    chain: str
    handle: int
    """Handle of the rule; 0: the policy."""
    dropped: bool
    ends_chain: bool
    """True if the base chain ends with its policy."""


def base_chain(steps: Sequence[Step]) -> str:
    """Return the base chain of the last step."""
    last = steps[-1]
    place = len(steps) - 1
    while place and _same_chain(steps[place - 1], last):
        place -= 1
    return steps[place].chain


def _same_chain(before: Step, last: Step) -> bool:
    return (before.family, before.table) == (last.family, last.table) and not before.ends_chain


def remove() -> None:
    """Remove the table of a trace, if there is one. Raises :class:`cni.kernel.errors.KernelError`."""
    nft.run("-f", "-", text=transaction("inet", ids.NFT_TRACE, ()))


class Trace:
    """A trace of probes out of one tunnel, as a context manager.

    It creates a table of its own, which stays until :func:`remove` is called.
    """

    def __init__(self, device: str) -> None:
        """``device``: the tunnel. Raises OSError and :class:`cni.kernel.errors.KernelError`."""
        self._device = device

    def __enter__(self) -> Trace:
        self._socket = netfilter.watch(GROUPS, BUFFER_BYTES, 0.0)
        try:
            rules = [f'iifname "{self._device}" {path_proof.INNER} meta nftrace set 1']
            nft.run("-f", "-", text=transaction("inet", ids.NFT_TRACE, [chain("trace", rules, RAW)]))
        except BaseException:
            netfilter.unwatch(self._socket, GROUPS)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        netfilter.unwatch(self._socket, GROUPS)

    def steps(self, seconds: float) -> list[Step]:
        """Return the steps of the packet within this time, or until it was dropped, without the trace's own rule."""
        found: list[Step] = []
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not (found and found[-1].dropped):
            self._socket.set_timeout(left)
            try:
                received = self._socket.receive()
            except TimeoutError:
                break
            found += [
                step for step in map(_step, received) if step is not None and step.table != ids.NFT_TRACE
            ]
        return found


def rule(step: Step, listing: str) -> str:
    """Return a rule's text. ``listing``: its chain as ``nft -a list chain`` writes it."""
    found = re.search(rf"^\t\t(.*?) # handle {step.handle}$", listing, re.MULTILINE)
    return found[1] if found else ""


def hook(listing: str) -> str:
    """Return the hook of a base chain. ``listing``: the chain as ``nft list chain`` writes it."""
    found = re.search(r"^\t\ttype \w+ hook (\w+) ", listing, re.MULTILINE)
    return found[1] if found else ""


def _step(message: Message) -> Step | None:
    if message.kind != NFT_MSG_TRACE:
        return None
    found = attributes(message.body[NFGENMSG.size :])
    verdict = attributes(found.get(NFTA_TRACE_VERDICT, b"")).get(NFTA_VERDICT_CODE, b"")
    code = verdict or found.get(NFTA_TRACE_POLICY, b"")
    return Step(
        FAMILIES.get(NFGENMSG.read(message.body).family, "inet"),
        decoded(found.get(NFTA_TRACE_TABLE, b"")),
        decoded(found.get(NFTA_TRACE_CHAIN, b"")),
        int.from_bytes(found.get(NFTA_TRACE_RULE_HANDLE, b""), "big"),
        bool(code) and int.from_bytes(code, "big") == NF_DROP,
        NFTA_TRACE_POLICY in found,
    )
