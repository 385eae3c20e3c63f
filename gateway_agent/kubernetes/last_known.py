"""Store the last read objects of a cluster in a file of the run directory.

An agent that starts while the API is away continues with them; ``egressctl`` reads them, too.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from cni.files import replace_file

from ..manifests.model import Inventory
from .objects import InventoryBuilder
from .reflector import Key, Object, key_of

LAST_KNOWN = "last-known.json"
"""Name of the file."""


def inventory(run_dir: Path) -> Inventory:
    """Return the objects that an agent has stored; an empty inventory if there are no readable ones."""
    kept = read(run_dir / LAST_KNOWN)
    return InventoryBuilder().inventory(item for items in kept.values() for item in items.values())


def read(path: Path) -> dict[str, dict[Key, Object]]:
    """Return the stored objects by kind; none if the file cannot be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, list[dict[str, object]]])
        return {kind: {key_of(item): item for item in items} for kind, items in found.items()}
    return {}


def write(path: Path, objects: dict[str, list[Object]]) -> str:
    """Write the objects to a file. Return the reason if that fails; empty if it succeeds.

    A full disk prevents the copy, not the service.
    """
    try:
        replace_file(path, msgspec.json.encode(objects), 0o600, sync=False)
    except OSError as error:
        return str(error)
    return ""
