"""Choose how many histories a test goes through: few for each commit, many with ``--hypothesis-profile deep``.

The few have each shape of a cluster, each fault and each moment at least once; the many combine them.
"""

from __future__ import annotations

from hypothesis import settings

DEEP = settings.get_current_profile_name() != "default"
"""True with the profile ``deep``: for an hour instead of minutes."""


def seeds(few: int, many: int) -> range:
    """Return the seeds of a test."""
    return range(many if DEEP else few)
