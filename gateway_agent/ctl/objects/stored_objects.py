"""Read the objects that an agent of this node would use, without the agent."""

from __future__ import annotations

import contextlib
import stat
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
                texts.append((str(path), manifest_text(path)))
    return parsing.parse(texts)


def manifest_text(path: Path, named: bool = False) -> str:
    """Return the text of a file. Raises OSError and UnicodeDecodeError.

    ``named``: True if the command line names the file, which may then be a pipe. One that is found in a directory is
    not waited for.
    """
    if not named and not stat.S_ISREG(path.stat().st_mode):
        raise OSError("is no regular file")
    with path.open("rb") as file:
        raw = file.read(parsing.MAX_FILE_BYTES + 1)
    if len(raw) > parsing.MAX_FILE_BYTES:
        raise OSError(f"larger than {parsing.MAX_FILE_BYTES} bytes")
    return raw.decode("utf-8")
