"""The library that travels inside the plugin's file, for the calls that need it."""

from __future__ import annotations

import os
import sys
from zipimport import zipimporter

LIBRARIES = "libraries.zip"
"""pyroute2, in an archive of its own: the way to the agent would pay for each file in the directory."""


def unpack() -> None:
    """Lets pyroute2 be imported, where this module itself came out of the plugin's file; else does nothing.

    ``zipimport`` cannot look into an archive within an archive, so the inner one goes into a file in memory.
    """
    loader = __spec__.loader if __spec__ else None
    if not isinstance(loader, zipimporter):
        return
    descriptor = os.memfd_create(LIBRARIES, os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(loader.get_data(f"{loader.archive}/{LIBRARIES}"))
    sys.path.insert(0, f"/proc/self/fd/{descriptor}")
