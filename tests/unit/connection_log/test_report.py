"""The numbers that the process of the log gives to the agent."""

from __future__ import annotations

from pathlib import Path

from gateway_agent.connection_log import report
from gateway_agent.connection_log.report import Report


def test_the_report(tmp_path: Path) -> None:
    assert report.read(tmp_path) == Report()
    whole = Report(5, 2, 1, ("trouble",))
    report.write(tmp_path, whole)
    assert report.read(tmp_path) == whole
    (tmp_path / report.REPORT).write_text("{")
    assert report.read(tmp_path) == Report()
