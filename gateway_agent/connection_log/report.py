"""Report the counters of the connection log to the agent, by a file in the run directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cni.files import replace_file

REPORT = "connection-log.json"


class Report(msgspec.Struct, frozen=True):
    """Counters since the start of the process."""

    lines: int = 0
    """Number of written lines."""
    lost: int = 0
    """Number of events that the kernel dropped because they were not read fast enough."""
    unwritten: int = 0
    """Number of lines that could not be written."""
    problems: tuple[str, ...] = ()


def write(run_dir: Path, report: Report) -> None:
    """Replace the report. Raises OSError."""
    replace_file(run_dir / REPORT, msgspec.json.encode(report), 0o600)


def read(run_dir: Path) -> Report:
    """Return the last report; an empty one if there is none."""
    try:
        return msgspec.json.decode((run_dir / REPORT).read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError):
        return Report()
