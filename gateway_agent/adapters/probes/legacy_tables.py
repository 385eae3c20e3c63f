"""List the rules of iptables-legacy."""

from __future__ import annotations

import subprocess
from pathlib import Path

NAMES = {4: Path("/proc/thread-self/net/ip_tables_names"), 6: Path("/proc/thread-self/net/ip6_tables_names")}
"""Files with the tables that the kernel has, by IP version: without tables there is nothing to list."""
COMMANDS = {4: ("iptables-legacy-save", "-c"), 6: ("ip6tables-legacy-save", "-c")}
TIMEOUT_S = 10.0


def listed(family: int) -> str:
    """Return the rules with their counters; an empty text if there are none, or no program that lists them."""
    try:
        if not NAMES[family].read_text(encoding="ascii").strip():
            return ""
        done = subprocess.run(
            COMMANDS[family], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
