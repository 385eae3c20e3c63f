"""Take the pictures of the page in ``docs/``, with example data, in Debian's Chromium.

``python -m tests.tools.screenshots [DIRECTORY]``
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import msgspec

from gateway_agent.lease.ipc import Change, MemberState
from gateway_agent.show import group

from ..e2e.test_page import serving
from ..lab.browser import browser
from ..lab.waiting import until
from ..unit.show.metrics.test_families import FIRST, PLAIN, SECOND, keeper

DOCUMENTS = Path(__file__).parents[2] / "docs"
PICTURES = {
    "page-light.png": ("light", 1000),
    "page-dark.png": ("dark", 1000),
    "page-narrow.png": ("light", 400),
}
"""Colour scheme and width in pixels, by file."""
MOVES = (
    (FIRST, "", "g1", 3300, 0), (SECOND, "", "g2", 3290, 0), (PLAIN, "", "g1", 3280, 0),
    (FIRST, "g1", "g2", 1900, 243), (PLAIN, "g1", "g2", 1890, 251), (FIRST, "g2", "g1", 900, 0),
)  # fmt: skip
"""Egress id, master before and after, seconds ago, silence in milliseconds."""


def main(directory: Path) -> None:
    """Write the pictures."""
    now = time.time()
    changes = tuple(
        Change(egress_id, before, after, number, now - ago, silent, "")
        for number, (egress_id, before, after, ago, silent) in enumerate(MOVES)
    )
    state = keeper(changes)
    members = tuple(MemberState(name, True, True, "", 12) for name in ("g1", "g2"))
    served = msgspec.structs.replace(
        state.egress[2], master="g2", since=now - 1890, reason="", shown="172.16.0.8"
    )
    state = msgspec.structs.replace(state, members=members, egress=(*state.egress[:2], served))
    with tempfile.TemporaryDirectory() as profile, serving() as agent, browser(Path(profile)) as window:
        agent.change(lease_daemon=state, problems=())
        agent.group = group.answer([group.row("w7", "10.0.0.27", "Connection refused")])
        for name, (scheme, width) in PICTURES.items():
            media = [{"name": "prefers-color-scheme", "value": scheme}]
            window.emulate("Emulation.setEmulatedMedia", features=media)
            window.emulate(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=900,
                deviceScaleFactor=1,
                mobile=False,
            )
            window.visit(agent.address)
            until(
                lambda: window.run("return document.querySelectorAll('svg').length"), "the picture is there"
            )
            (directory / name).write_bytes(window.screenshot())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCUMENTS)
