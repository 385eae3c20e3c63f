"""Read the directory of the CNI configuration, with the files that a runtime would read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from . import conflist_text


def configurations(conf_dir: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the text of each file that a runtime reads, and the reason for each that cannot be read."""
    files: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for found in sorted(os.scandir(conf_dir), key=lambda entry: entry.name):
            if not found.name.endswith(conflist_text.SUFFIXES) or found.is_dir(follow_symlinks=False):
                continue
            if not os.path.isfile(found.path):
                link = "it is a link that leads to no file" if found.is_symlink() else "it is no regular file"
                unreadable[found.name] = link
                continue
            try:
                files[found.name] = read(Path(found.path))
            except OSError as error:
                unreadable[found.name] = error.strerror or str(error)
    return files, unreadable


def read(path: Path) -> str:
    """Return the text of a configuration. Raises OSError.

    Bytes that are not UTF-8 become lone surrogates: inside a JSON string, runtimes load them as unknown characters.
    """
    return path.read_text(encoding="utf-8", errors="surrogateescape")
