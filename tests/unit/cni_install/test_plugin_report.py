from __future__ import annotations

from pathlib import Path

import pytest

from gateway_agent.cni_install.conflist_text import Report, report
from gateway_agent.cni_install.plugin_report import MAX_REPORT_BYTES, NAME, problems, read
from gateway_agent.manifests.model import Problem

PROBLEM = Problem("/etc/cni/net.d/10-a.conflist", "plugins", "a plugin has no type", "see the specification")


def leave(run_dir: Path, content: bytes) -> None:
    (run_dir / NAME).parent.mkdir()
    (run_dir / NAME).write_bytes(content)


def test_a_report_is_read_as_the_installer_wrote_it(tmp_path: Path) -> None:
    written = Report((PROBLEM,), "10-a.conflist")
    leave(tmp_path, report(written).encode())
    assert read(tmp_path) == written
    assert problems(tmp_path) == (PROBLEM,)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b'{"problems": [5], "chained": ""}',
        b"[" * 100_000,
        b" " * MAX_REPORT_BYTES + b"{}",
    ],
    ids=["empty", "cut off", "not UTF-8", "a list", "no fields", "another form", "deep", "large"],
)
def test_what_is_no_report_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    leave(tmp_path, content)
    assert read(tmp_path) == Report()


def test_without_an_installer_there_is_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path) == ()
