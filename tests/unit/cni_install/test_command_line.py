"""What ``egress-gateway-cni`` installs: the plugin by the node's Python, or with its own interpreter."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway_agent.cni_install import command_line, installer

from .test_installer import OTHERS, SPEAKS, Host, host

__all__ = ["host"]


def test_the_interpreter_is_chosen(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was built is taken, the shipped interpreter first; what is named and was not built is no other."""
    monkeypatch.setattr(command_line, "SHARE", tmp_path / "share")
    (tmp_path / "share").mkdir()
    files = {name: tmp_path / "share" / file for name, file in command_line.FILES.items()}
    options = host.options()[2:]

    def installed(*more: str) -> str:
        status = installer.main(["install", *options, *more])
        return host.installed.read_text() if status == 0 else ""

    files["node"].write_text(SPEAKS)
    assert installed() == SPEAKS
    assert installed("--interpreter", "shipped") == ""
    files["shipped"].write_text(SPEAKS + "# shipped")
    assert installed() == SPEAKS + "# shipped"
    assert installed("--interpreter", "node") == SPEAKS
    assert installed("--interpreter", "shipped") == SPEAKS + "# shipped"
    assert installed("--plugin", str(files["node"])) == SPEAKS


def test_a_plugin_that_is_no_program_any_more_is_installed_again(host: Host) -> None:
    host.configure()
    host.run("install")
    host.installed.chmod(0o644)
    assert host.run("install") == 0
    assert os.access(host.installed, os.X_OK)


def test_the_hint_names_another_interpreter_only_where_the_nodes_is_used(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.plugin.write_text("#!/no/python3\n")
    host.run("install")
    assert "--interpreter shipped" in capsys.readouterr().err
    host.plugin.write_text(SPEAKS.replace("/bin/sh", "/bin/false"))
    host.run("install")
    assert "--interpreter shipped" in capsys.readouterr().err


def test_what_the_kernel_does_not_run_is_taken_out(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A program that is cut off, or of another kind of processor."""
    host.configure()
    host.run("install")
    assert len(host.plugins()) == 2
    host.plugin.write_bytes(b"\x7fELF but no program")
    capsys.readouterr()
    assert host.run("install") == 1
    assert json.loads(host.configuration.read_text()) == OTHERS
    said = capsys.readouterr().err
    assert "it cannot run: Exec format error" in said
    assert "Python" not in said
