"""If the plugin can run on the node, seen from a container: the node's interpreter is looked up."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway_agent.cni_install import conflist_text, plugin_report
from gateway_agent.cni_install.conflist_text import Report
from gateway_agent.cni_install.plugin_probe import PluginProbe
from gateway_agent.manifests.model import Problem


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "plugin").write_text("#!/usr/bin/python3 -IS\n")
    return tmp_path


def failure(root: Path) -> str:
    return PluginProbe(root / "plugin", root).failure()


def program(root: Path, name: str) -> None:
    path = root / "usr" / "bin" / name
    path.write_text("an interpreter")
    path.chmod(0o755)


def test_a_node_without_the_interpreter_is_named(root: Path) -> None:
    assert failure(root) == "the node has no /usr/bin/python3"
    (root / "usr" / "bin" / "python3").symlink_to("python3.11")
    assert failure(root) == "the node has no /usr/bin/python3"
    program(root, "python3.11")
    assert failure(root) == ""
    (root / "usr" / "bin" / "python3.11").chmod(0o644)
    assert failure(root) == "the node has no /usr/bin/python3"


@pytest.mark.parametrize("link", ["python3.6", "/usr/bin/python3.6", "../bin/python3.6"])
def test_an_interpreter_that_is_too_old_is_named(root: Path, link: str) -> None:
    (root / "usr" / "bin" / "python3").symlink_to(link)
    program(root, "python3.6")
    assert failure(root) == "/usr/bin/python3 of the node is python3.6, and 3.9 or later is needed"


def test_links_in_a_circle_end(root: Path) -> None:
    (root / "usr" / "bin" / "python3").symlink_to("python3")
    assert failure(root) == "the node has no /usr/bin/python3"


def test_a_link_to_what_is_not_shown_is_no_reason(root: Path) -> None:
    (root / "usr" / "bin" / "python3").symlink_to("/etc/alternatives/python3")
    assert failure(root) == ""


def test_a_plugin_with_an_interpreter_of_its_own_is_run(root: Path) -> None:
    """Also in a container: it runs there as on the node, which need not have a Python."""
    (root / "plugin").unlink()
    (root / "plugin").symlink_to("/bin/true")
    assert "it does not answer CNI_COMMAND=VERSION" in failure(root)


def test_files_are_compared_again_after_a_change(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    probe = PluginProbe(target, None)
    source.write_text("one")
    assert probe.differs(source)
    shutil.copy(source, target)
    assert probe.differs(source), "it is no program"
    target.chmod(0o755)
    assert not probe.differs(source)
    source.write_text("two")
    assert probe.differs(source)
    target.write_text("two")
    assert not probe.differs(source)
    target.write_text("odd")
    assert probe.differs(source)
    source.unlink()
    with pytest.raises(FileNotFoundError):
        probe.differs(source)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert plugin_report.read(tmp_path) == Report()
    path = tmp_path / plugin_report.NAME
    path.parent.mkdir()
    problems = (Problem("/opt/cni/bin/egress-gateway", "", "it cannot run", "install Python"),)
    for written in (Report(problems), Report(chained="/etc/cni/net.d/10-net.conflist")):
        path.write_text(conflist_text.report(written))
        assert plugin_report.read(tmp_path) == written
        assert plugin_report.problems(tmp_path) == written.problems
    for text in (
        "",
        "{",
        "[1]",
        '{"a": 1}',
        '{"problems": [{"other": 1}], "chained": ""}',
        "[" * 20_000,
        "\x00",
    ):
        path.write_text(text)
        assert plugin_report.read(tmp_path) == Report()
