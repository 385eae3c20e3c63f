"""``egress-gateway-cni`` on the directories of a node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway_agent import chain
from tests.lab.waiting import until

OTHERS = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}]}


class Host:
    """What a node has of CNI."""

    def __init__(self, directory: Path) -> None:
        self.plugin, self.bin_dir, self.conf_dir = (directory / name for name in ("image", "bin", "net.d"))
        self.plugin.write_text("the plugin")
        self.bin_dir.mkdir()
        self.conf_dir.mkdir()
        self.configuration = self.conf_dir / "10-net.conflist"

    def configure(self) -> None:
        """As a network plugin does."""
        self.configuration.write_text(json.dumps(OTHERS))
        self.configuration.chmod(0o640)

    def run(self, command: str, *more: str) -> int:
        return chain.main([command, *self.options(), *more])

    def options(self) -> list[str]:
        given = {"--plugin": self.plugin, "--bin-dir": self.bin_dir, "--conf-dir": self.conf_dir}
        return [str(word) for pair in given.items() for word in pair]

    def plugins(self) -> list[dict[str, str]]:
        return list(json.loads(self.configuration.read_text())["plugins"])

    @property
    def installed(self) -> Path:
        return self.bin_dir / "egress-gateway"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_installed_chained_and_taken_away(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.configure()
    assert host.run("install", "--socket", "/run/a.sock", "--failure-policy", "Ignore") == 0
    assert host.installed.read_text() == "the plugin"
    assert host.installed.stat().st_mode & 0o777 == 0o755
    assert host.plugins()[1:] == [
        {"type": "egress-gateway", "socket": "/run/a.sock", "failurePolicy": "Ignore"}
    ]
    assert host.configuration.stat().st_mode & 0o777 == 0o640
    assert capsys.readouterr().out.splitlines() == [
        f"{host.installed}: installed", f"{host.configuration}: chained",
    ]  # fmt: skip
    stamps = [path.stat().st_mtime_ns for path in (host.installed, host.configuration)]
    assert host.run("install", "--socket", "/run/a.sock", "--failure-policy", "Ignore") == 0
    assert [path.stat().st_mtime_ns for path in (host.installed, host.configuration)] == stamps
    assert capsys.readouterr().out == ""
    assert host.run("remove") == 0
    assert json.loads(host.configuration.read_text()) == OTHERS
    assert list(host.bin_dir.iterdir()) == []
    assert host.run("remove") == 0


def test_a_new_version_replaces_the_old_one(host: Host) -> None:
    host.configure()
    host.run("install")
    host.plugin.write_text("the next version")
    with host.installed.open() as running:
        assert host.run("install") == 0
        assert (running.read(), host.installed.read_text()) == ("the plugin", "the next version")


def test_without_a_network_configuration_the_plugin_waits(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.run("install") == 0
    assert "no network configuration yet" in capsys.readouterr().out
    assert host.installed.exists()


def test_what_cannot_be_done_is_said(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    (host.conf_dir / "10-net.conf").write_text("{}")
    assert host.run("install") == 1
    assert "make a .conflist of it" in capsys.readouterr().err
    host.conf_dir.joinpath("10-net.conf").unlink()
    host.conf_dir.rmdir()
    assert host.run("install") == 1
    assert str(host.conf_dir) in capsys.readouterr().err


def test_taken_away_beside_what_cannot_be_read(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.configure()
    host.run("install")
    (host.conf_dir / "05-broken.conflist").write_bytes(b"\xff")
    (host.conf_dir / "06-old.conflist").write_text('{"name": "old", "plugins": [{"type": "bridge"}]}')
    assert host.run("remove") == 0
    assert json.loads(host.configuration.read_text()) == OTHERS
    assert not host.installed.exists()
    assert "05-broken.conflist: left as it is" in capsys.readouterr().out


def test_what_another_program_writes_meanwhile_is_not_overwritten(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes its next version when ours is ready to be put into place."""
    host.configure()
    following = {**OTHERS, "plugins": [{"type": "ptp"}]}
    written = os.fsync

    def meanwhile(descriptor: int) -> None:
        written(descriptor)
        if host.installed.exists() and host.plugins() == OTHERS["plugins"]:
            host.configuration.write_text(json.dumps(following))

    monkeypatch.setattr(os, "fsync", meanwhile)
    assert host.run("install") == 0
    assert [plugin["type"] for plugin in host.plugins()] == ["ptp", "egress-gateway"]
    assert sorted(path.name for path in host.conf_dir.iterdir()) == [host.configuration.name]


def test_a_watch_puts_back_what_others_overwrite(host: Host, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "gateway_agent.chain", "install", "--watch", *host.options()]
    with log.open("wb") as said:
        watching = subprocess.Popen(command, stdout=said)
    try:
        until(lambda: "no network configuration yet" in log.read_text(), "it waits for one", 30)
        for _ in range(2):
            host.configure()
            until(lambda: len(host.plugins()) == 2, "ours is chained", 30)
        host.installed.unlink()
        until(host.installed.exists, "the plugin is there again", 30)
        # Broken as it may be while somebody writes it.
        host.configuration.write_text("{")
        until(lambda: "it is not JSON" in log.read_text(), "it says so", 30)
        host.configure()
        until(lambda: len(host.plugins()) == 2, "ours is chained", 30)
        watching.send_signal(signal.SIGTERM)
        assert watching.wait(30) == 0
    finally:
        watching.kill()
        watching.wait()
