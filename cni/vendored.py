"""The libraries that travel inside the plugin's file, for the calls that need it."""

# Only what is part of every interpreter: the rest of the standard library may be in the archive.
import os
import sys
from zipimport import zipimporter

LIBRARIES = "libraries.zip"
"""pyroute2, and the standard library if the interpreter is in the file, too.

They are in an archive of their own: each pod start would pay for each file in the archive's directory.
"""


def unpack() -> None:
    """Make the libraries importable if this module itself came out of the plugin's file; else do nothing.

    ``zipimport`` cannot look into an archive within an archive, so the inner one goes into a file in memory.
    """
    loader = __spec__.loader if __spec__ else None
    if not isinstance(loader, zipimporter):
        return
    descriptor = os.memfd_create(LIBRARIES, os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(loader.get_data(f"{loader.archive}/{LIBRARIES}"))
    sys.path.insert(0, f"/proc/self/fd/{descriptor}")
