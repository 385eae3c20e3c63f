"""Draw the transitions of an egress IP on one node into the document about them.

``python -m tests.tools.lease_diagram`` writes ``docs/design/lease-states.md``; with ``--check`` it changes nothing, and
ends with 1 if the picture there is old.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gateway_agent.lease.egress_ips.egress_ip import TRANSITIONS, Phase

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "design" / "lease-states.md"
BEGIN, END = "<!-- python -m tests.tools.lease_diagram -->\n", "<!-- end -->\n"


def diagram() -> str:
    """Return the table as a state diagram in Mermaid, one arrow for each pair of phases."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {Phase.IDLE.name}"]
    lines += [f"    {phase.name}: {phase.value}" for phase in Phase]
    for before, events in TRANSITIONS.items():
        for after in Phase:
            labels = [event.value for event, target in events.items() if target is after]
            if labels:
                lines.append(f"    {before.name} --> {after.name}: {' / '.join(labels)}")
    return "\n".join([*lines, "```", ""])


def drawn(text: str) -> str:
    """Return the document with the present picture in it. Raises ValueError if it has no place for one."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(
            f"{DOCUMENT} has no place for the picture, between {BEGIN.strip()} and {END.strip()}"
        )
    return f"{before}{BEGIN}{diagram()}{END}{after}"


def main(arguments: list[str]) -> int:
    """Write the document, or check it. Return the exit code."""
    text = DOCUMENT.read_text(encoding="utf-8")
    wanted = drawn(text)
    if "--check" in arguments:
        return int(text != wanted)
    DOCUMENT.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
