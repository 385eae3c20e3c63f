"""Where the kernel's network settings stand as files."""

from __future__ import annotations

import os
from pathlib import Path

PROC_SYS_NET = Path(os.environ.get("PROC_SYS_NET", "/proc/sys/net"))
"""A container sees ``/proc/sys`` read-only; one that may write is given the directory at another place, and told of it
by the variable. Whichever it is, it shows the network namespace of who looks."""
