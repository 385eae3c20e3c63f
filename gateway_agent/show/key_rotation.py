"""Compute the answer of ``egressctl key``: the keys that nodes use, and the next step of a key rotation.

A key is replaced in three steps, each on all nodes before the next one begins: accept the new key, sign with the new
key, drop the old key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..lease.ipc import OwnKeys, PeerKey

MAX_NAMED_NODES = 10
"""Largest number of nodes that a text names; further nodes are counted."""


def shown(node: str, addresses: Mapping[str, str], own: OwnKeys) -> dict[str, Any]:
    """Return the answer of ``egressctl key -o json``. ``addresses``: those of the inventory's other nodes, by name."""
    known = {row.node: row for row in own.peers}
    return {
        "node": node,
        "signs": own.signs,
        "accepts": list(own.accepts),
        "peers": [_peer(name, addresses[name], known.get(name)) for name in sorted(addresses)],
        "next": next_step(node, own),
    }


def _peer(name: str, address: str, row: PeerKey | None) -> dict[str, Any]:
    if row is None:
        return {
            "node": name,
            "address": address,
            "signs": "",
            "known": True,
            "accepts": None,
            "lastHeardMs": -1,
        }
    accepts = None if row.accepts is None else list(row.accepts)
    return {"node": name, "address": address, "signs": row.fingerprint, "known": row.known, "accepts": accepts,
            "lastHeardMs": row.silent_ms}  # fmt: skip


def next_step(node: str, own: OwnKeys) -> str:
    """Return the next step as text. It considers only nodes whose messages this node receives."""
    foreign = [row.node for row in own.peers if not row.known]
    if foreign:
        return (
            f"{_names(foreign)} sign with a key that this node does not have: give them a key of this cluster, or name "
            "the file of theirs in acceptKeyFiles here"
        )
    signs = {node: own.signs, **{row.node: row.fingerprint for row in own.peers}}
    accepts = {node: own.accepts, **{row.node: row.accepts for row in own.peers if row.accepts is not None}}
    keys = sorted({key for each in accepts.values() for key in each} | set(signs.values()))
    if len(keys) == 1:
        return (
            "nothing: all nodes that this one receives from use one key. To replace it, name the file of a new one in "
            "acceptKeyFiles on all nodes (step 1 of 3)"
        )
    for key in keys:
        without = [name for name, known in accepts.items() if key not in known]
        if without:
            return (
                f"{_names(without)} do not accept {key}, others do: name its file in acceptKeyFiles there (step 1 of "
                "3); or, if it is the old key, drop it from acceptKeyFiles everywhere (step 3 of 3)"
            )
    if len(set(signs.values())) > 1:
        by_key = {
            key: [name for name, used in signs.items() if used == key] for key in sorted(set(signs.values()))
        }
        parts = [f"{_names(nodes)} with {key}" for key, nodes in by_key.items()]
        return f"sign with the new key on all nodes (step 2 of 3); now {', '.join(parts)} sign"
    idle = ", ".join(key for key in keys if key != own.signs)
    return (
        f"all nodes sign with {own.signs} and accept {idle}: if that is the new key, name its file in keyFile and the "
        "present one in acceptKeyFiles, node by node (step 2 of 3); if it is the old key, drop it (step 3 of 3)"
    )


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED_NODES} more" if len(names) > MAX_NAMED_NODES else ""
    return ", ".join(sorted(names)[:MAX_NAMED_NODES]) + more
