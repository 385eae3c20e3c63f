"""Write and remove the plugin's drop-in file: ``<conf-dir>/<network>/99-egress-gateway.conf``.

containerd watches the directory of the configuration, but no subdirectories. It reacts to files that are written,
renamed or removed there, but not to created ones. So each change ends with a temporary file of ours there, and
containerd reads its configuration again.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cni.files import replace_file

from . import conflist_text

NAME = f"99-{conflist_text.TYPE}.conf"
"""Name of the file. It sorts last, because the plugin needs the results of the others."""


def path(conf_dir: Path, network: str) -> Path:
    """Return the path of the drop-in of a network."""
    return conf_dir / network / NAME


def put(conf_dir: Path, network: str, entry: Mapping[str, Any]) -> bool:
    """Write the drop-in of a network. Return True if it was changed. Raises OSError."""
    target = path(conf_dir, network)
    text = json.dumps(entry, indent=2) + "\n"
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        if target.read_text(encoding="utf-8") == text:
            return False
    target.parent.mkdir(mode=0o755, exist_ok=True)
    replace_file(target, text.encode(), 0o644)
    _have_it_read(conf_dir)
    return True


def remove(conf_dir: Path, but: str = "") -> list[Path]:
    """Remove our drop-ins, and directories that are empty without them. Return the removed files. Raises OSError.

    ``but``: the network whose drop-in stays.
    """
    stale = [found for found in here(conf_dir) if found.parent.name != but]
    for found in stale:
        found.unlink(missing_ok=True)
        # The directory has drop-ins of other programs, too.
        with contextlib.suppress(OSError):
            found.parent.rmdir()
    if stale:
        _have_it_read(conf_dir)
    return stale


def here(conf_dir: Path) -> list[Path]:
    """Return our drop-ins in this directory."""
    return sorted(conf_dir.glob(f"*/{NAME}"))


def _have_it_read(conf_dir: Path) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{conflist_text.TYPE}-", dir=conf_dir)
    os.close(descriptor)
    os.unlink(name)
