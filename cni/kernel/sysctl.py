"""The directory of the kernel's network settings."""

from __future__ import annotations

import os
from pathlib import Path

PROC_SYS_NET = Path(os.environ.get("PROC_SYS_NET", "/proc/sys/net"))
"""A container sees ``/proc/sys`` read-only. If it may write, the directory is at another path, which the variable
names. Both paths show the network namespace of the process that reads them."""
