"""The clock of one node, set at run time.

A machine has one ``CLOCK_REALTIME`` for all its namespaces, so Debian's ``libfaketime`` stands between the node's
programs and the C library. It shifts that clock alone: the clocks by which leases are counted, ``CLOCK_BOOTTIME`` and
``CLOCK_MONOTONIC``, are not touched when a clock is set, and are not touched here.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path

from .node import Node

LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"
NOTICE_S = 1
"""Seconds until a program notices a change of its clock."""


class Clock:
    """Of the programs that a node starts from now on."""

    def __init__(self, node: Node) -> None:
        self._offset = node.directory / "clock"
        self.set(0)
        [library] = glob.glob(LIBRARY)
        node.agent.environment |= self._environment(library)

    def set(self, seconds: int) -> None:
        """Set it so far off, behind with a minus; programs notice within :data:`NOTICE_S`."""
        draft = Path(f"{self._offset}.draft")
        draft.write_text(f"{seconds:+d}\n")
        os.replace(draft, self._offset)

    def _environment(self, library: str) -> dict[str, str]:
        return {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            # With no cache at all the file would be read with each look at any clock.
            "FAKETIME_CACHE_DURATION": str(NOTICE_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Times of files stay what they are when a clock is set.
            "NO_FAKE_STAT": "1",
        }
