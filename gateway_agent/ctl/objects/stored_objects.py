"""Read the objects that an agent of this node would use, without the agent."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ...config import AgentConfig, FilesStoreConfig
from ...manifests import parsing
from ...manifests.model import Inventory


def inventory(config: AgentConfig) -> Inventory:
    """Return the objects in the files of the store, or the agent's copy of the cluster's objects. Raises OSError."""
    if isinstance(config.store, FilesStoreConfig):
        return _of_files(config.store.path)
    # Imported only here: the files store does not need the client of the API.
    from ...kubernetes import last_known

    return last_known.inventory(config.run_dir)


def _of_files(directory: Path) -> Inventory:
    """Return the objects that can be read; ``egressctl validate`` reports the others."""
    texts: list[tuple[str, str]] = []
    for path in sorted(directory.iterdir()):
        if path.name.endswith(parsing.SUFFIXES) and path.name[0] != ".":
            with contextlib.suppress(OSError, UnicodeDecodeError):
                texts.append((str(path), path.read_text(encoding="utf-8")))
    return parsing.parse(texts)
