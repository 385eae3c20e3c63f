"""``python -m tests.tools.rules_passed``: write the rules that packets pass into docs/design/per-packet.md.

The kernel is asked, in the data path's lab, so it needs root. ``tests/netns/test_rules_passed.py`` compares.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ..bench import report
from ..lab.namespace import REPOSITORY
from ..netns import datapath_lab, packet_cases

DOCUMENT = REPOSITORY / "docs" / "design" / "per-packet.md"
SECTION = "rules passed"


def main() -> int:
    """Run the program."""
    with tempfile.TemporaryDirectory() as directory, datapath_lab.lab(Path(directory) / "service.log") as lab:
        lab.reset()
        report.write_section(
            DOCUMENT, SECTION, packet_cases.document(packet_cases.cases(lab, packet_cases.FEW))
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
