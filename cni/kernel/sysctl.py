"""The directory of the kernel's network settings."""

from __future__ import annotations

import os
from pathlib import Path

PROC_SYS_NET = Path(os.environ.get("PROC_SYS_NET", "/proc/sys/net"))
"""A container sees ``/proc/sys`` read-only; one that may write has the directory at another place, which
the variable names. Either shows the network namespace of the process that reads it."""
