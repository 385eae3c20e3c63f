"""The libraries inside the plugin's file, for the calls that need them."""

# Only what is part of every interpreter: the rest of the standard library may be in the archive.
import os
import sys
from zipimport import zipimporter

LIBRARIES = "libraries.zip"
"""pyroute2, and the standard library if the interpreter is in the file, too.

The libraries are in an archive of their own: each file in the directory of the plugin's archive slows each pod start.
"""


def unpack() -> None:
    """Make the libraries importable if this module was imported from the plugin's file; else do nothing.

    ``zipimport`` cannot read an archive within an archive, so the inner archive is copied to a file in memory.
    """
    loader = __spec__.loader if __spec__ else None
    if not isinstance(loader, zipimporter):
        return
    descriptor = os.memfd_create(LIBRARIES, os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(loader.get_data(f"{loader.archive}/{LIBRARIES}"))
    sys.path.insert(0, f"/proc/self/fd/{descriptor}")
