"""``egress-gateway-cni`` on the directories of a node."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_agent.cni_install import conflist_text, installer
from tests.lab.waiting import until

SPEAKS = '#!/bin/sh\necho \'{"cniVersion": "1.1.0", "supportedVersions": ["1.0.0"]}\'\n'
OTHERS = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}]}


class Host:
    """What a node has of CNI."""

    def __init__(self, directory: Path) -> None:
        self.plugin, self.bin_dir, self.conf_dir = (directory / name for name in ("image", "bin", "net.d"))
        self.plugin.write_text(SPEAKS)
        self.report = directory / "run" / "report.json"
        self.runtime = directory / "c.sock"
        self.bin_dir.mkdir()
        self.conf_dir.mkdir()
        self.configuration = self.conf_dir / "10-net.conflist"

    def configure(self) -> None:
        """As a network plugin does."""
        self.configuration.write_text(json.dumps(OTHERS))
        self.configuration.chmod(0o640)

    def run(self, command: str, *more: str) -> int:
        return installer.main([command, *self.options(), *more])

    def options(self) -> list[str]:
        given = {"--plugin": self.plugin, "--bin-dir": self.bin_dir, "--conf-dir": self.conf_dir,
                 "--report": self.report, "--cri-socket": self.runtime}  # fmt: skip
        return [str(token) for pair in given.items() for token in pair]

    def plugins(self, path: Path | None = None) -> list[dict[str, str]]:
        return list(json.loads((path or self.configuration).read_text())["plugins"])

    def reported(self) -> list[str]:
        return [problem.message for problem in self._report().problems]

    def reported_file(self) -> str:
        """Return the file that has our entry by the report."""
        return self._report().chained

    def _report(self) -> conflist_text.Report:
        return conflist_text.read_report(self.report.read_text())

    @contextlib.contextmanager
    def watching(self, log: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the installer with ``--watch``; its output goes to ``log``."""
        command = [
            sys.executable,
            "-m",
            "gateway_agent.cni_install.installer",
            "install",
            "--watch",
            *self.options(),
            *more,
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            yield process
            assert process.poll() is None, log.read_text()
        finally:
            process.kill()
            process.wait()

    @property
    def installed(self) -> Path:
        return self.bin_dir / "egress-gateway"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_installed_chained_and_taken_away(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.configure()
    assert host.run("install", "--socket", "/run/a.sock", "--failure-policy", "Ignore") == 0
    assert host.installed.read_text() == SPEAKS
    assert host.installed.stat().st_mode & 0o777 == 0o755
    assert host.reported_file() == str(host.configuration)
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
    host.plugin.write_text(SPEAKS + "# the next version")
    with host.installed.open() as running:
        assert host.run("install") == 0
        assert (running.read(), host.installed.read_text()) == (SPEAKS, SPEAKS + "# the next version")


def test_without_a_network_configuration_the_plugin_waits(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    assert host.run("install") == 0
    assert "no network configuration yet" in capsys.readouterr().out
    assert (host.reported(), host.reported_file()) == ([], "")
    assert host.installed.exists()


def test_the_default_network_of_the_runtime_gets_the_entry(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.configure()
    assert host.run("install", "--network", "crio") == 0
    assert "no network crio yet" in capsys.readouterr().out
    assert (host.plugins(), host.reported_file()) == (OTHERS["plugins"], "")
    second = host.conf_dir / "20-crio.conflist"
    second.write_text(json.dumps({**OTHERS, "name": "crio"}))
    assert host.run("install", "--network", "crio") == 0
    assert (host.plugins(), host.reported_file()) == (OTHERS["plugins"], str(second))
    assert host.plugins(second)[-1] == {"type": "egress-gateway"}


def test_what_cannot_be_done_is_said(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    (host.conf_dir / "10-net.conf").write_text('{"type": "ptp"}')
    assert host.run("install") == 1
    assert "make a .conflist of it" in capsys.readouterr().err
    host.conf_dir.joinpath("10-net.conf").unlink()
    host.conf_dir.rmdir()
    assert host.run("install") == 1
    missing = f"egress-gateway-cni: {host.conf_dir}: no such directory (--conf-dir names it)"
    assert missing in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"cniVersion": "1.2.0"}, "cniVersion 1.2.0 is too new"),
        ({"plugins": [{"type": "egress-gateway"}]}, "it lists no other plugin"),
    ],
)
def test_a_configuration_in_use_that_cannot_be_chained_is_named(
    host: Host, capsys: pytest.CaptureFixture[str], changed: dict[str, object], reason: str
) -> None:
    host.configuration.write_text(json.dumps(OTHERS | changed))
    assert host.run("install") == 1
    assert f"{host.configuration}: {reason}" in capsys.readouterr().err
    assert (host.reported(), host.reported_file()) == ([reason], "")


def test_a_comment_that_is_not_utf_8_does_not_hide_the_file_in_use(host: Host) -> None:
    """Go's JSON package replaces such bytes inside of a string, so runtimes load the file."""
    text = json.dumps({**OTHERS, "_comment": "@"}).replace("@", "für Köln").encode("latin-1")
    host.configuration.write_bytes(text)
    other = host.conf_dir / "20-other.conflist"
    other.write_text(json.dumps(OTHERS))
    assert host.run("install", "--socket", "/run/a.sock") == 0
    assert host.plugins()[-1]["type"] == "egress-gateway"
    assert json.loads(other.read_text()) == OTHERS
    assert host.run("remove") == 0
    assert host.plugins() == OTHERS["plugins"]


def test_taken_away_beside_what_cannot_be_read(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.configure()
    host.run("install")
    (host.conf_dir / "05-broken.conflist").symlink_to("gone")
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
    with host.watching(log):
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


def test_a_watch_whose_output_cannot_be_written_goes_on(host: Host) -> None:
    with host.watching(Path("/dev/full")):
        for _ in range(2):
            host.configure()
            until(lambda: len(host.plugins()) == 2, "ours is chained", 30)


def test_a_watch_wakes_at_once(host: Host, tmp_path: Path) -> None:
    """The quickest of several: a busy machine delays some of them."""
    host.configure()
    with host.watching(tmp_path / "log"):
        until(lambda: len(host.plugins()) == 2, "ours is chained", 30)
        took = []
        for _ in range(10):
            draft = host.conf_dir / ".draft"
            draft.write_text(json.dumps(OTHERS))
            began = time.monotonic()
            draft.rename(host.configuration)
            while len(host.plugins()) != 2:
                assert time.monotonic() - began < 30
            took.append(time.monotonic() - began)
    assert min(took) < 0.05


def test_a_file_that_is_just_being_written_makes_no_other_one_the_one_in_use(
    host: Host, tmp_path: Path
) -> None:
    host.configure()
    other = host.conf_dir / "90-other.conflist"
    other.write_text(json.dumps({**OTHERS, "name": "other"}))
    with host.watching(tmp_path / "log"):
        until(lambda: len(host.plugins()) == 2, "ours is chained", 30)
        for _ in range(20):
            # Broken for a millisecond or two.
            host.configuration.write_text("{")
            host.configuration.write_text(json.dumps(OTHERS))
            until(lambda: len(host.plugins()) == 2, "ours is chained", 30)
        assert len(host.plugins(other)) == 1
        host.configuration.write_text("{")
        until(lambda: len(host.plugins(other)) == 2, "a file that stays broken is none", 30)


def test_a_watch_ends_well_by_a_signal(host: Host, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [
        sys.executable,
        "-m",
        "gateway_agent.cni_install.installer",
        "install",
        "--watch",
        *host.options(),
    ]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output) as watching:
        until(lambda: "no network configuration yet" in log.read_text(), "it waits for one", 30)
        watching.send_signal(signal.SIGTERM)
        assert watching.wait(30) == 0


def test_a_watch_waits_for_directories_and_survives_their_loss(host: Host, tmp_path: Path) -> None:
    log = tmp_path / "log"
    host.conf_dir.rmdir()
    host.bin_dir.rmdir()
    with host.watching(log):
        until(lambda: "no such directory" in log.read_text(), "it says what is missing", 30)
        for _ in range(2):
            host.bin_dir.mkdir()
            host.conf_dir.mkdir()
            host.configure()
            until(lambda: len(host.plugins()) == 2, "ours is chained", 30)
            shutil.rmtree(host.conf_dir)
            shutil.rmtree(host.bin_dir)
            until(lambda: "no such directory" in "".join(host.reported()), "the loss is reported", 30)


def test_an_error_that_stays_is_logged_once(host: Host, tmp_path: Path) -> None:
    log = tmp_path / "log"
    host.configure()
    with host.watching(log):
        until(lambda: len(host.plugins()) == 2, "ours is chained", 30)
        host.configuration.write_text("{")
        for number in range(3):
            (host.conf_dir / f"{number}.txt").write_text("a change that matters to nobody")
            until(lambda: "it is not JSON" in log.read_text(), "it says so", 30)
        host.plugin.rename(tmp_path / "moved")
        until(lambda: "No such file" in log.read_text(), "the next error", 30)
        assert log.read_text().count("it is not JSON") == 1


@pytest.mark.parametrize("odd", ["empty", "dangling", "directory", "fifo", "no JSON", "nested", "no type"])
def test_what_no_runtime_can_load_is_passed_over(
    host: Host, odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    host.configure()
    path = host.conf_dir / "00-x.conflist"
    match odd:
        case "dangling":
            path.symlink_to("nowhere")
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            texts = {
                "no JSON": "{",
                "nested": "[" * 100_000,
                "no type": json.dumps({**OTHERS, "plugins": [{}]}),
            }
            path.write_text(texts.get(odd, ""))
    assert host.run("install") == 0
    assert [plugin["type"] for plugin in host.plugins()] == ["bridge", "egress-gateway"]
    # libcni does not even look at directories.
    assert (path.name in capsys.readouterr().err) == (odd != "directory")
    assert host.run("remove") == 0
    assert json.loads(host.configuration.read_text()) == OTHERS


def test_the_target_of_a_link_changes_and_the_link_stays(host: Host, tmp_path: Path) -> None:
    real = tmp_path / "real" / "x.conflist"
    real.parent.mkdir()
    host.configure()
    host.configuration.rename(real)
    owner = (65534, 65534) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(real, *owner)
    host.configuration.symlink_to("../real/x.conflist")
    assert host.run("install") == 0
    assert host.configuration.is_symlink()
    assert len(host.plugins(real)) == 2
    state = real.stat()
    assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (*owner, 0o640)
    assert [path.name for path in real.parent.iterdir()] == ["x.conflist"]


@pytest.mark.parametrize(
    "text", ['{"type": "multus"}', '{"name": "m", "plugins": [{"type": "multus-shim"}]}']
)
def test_the_default_network_of_multus_is_what_runs(host: Host, text: str) -> None:
    host.configure()
    multus = json.loads(text)
    network = {"clusterNetwork": f"/host/etc/cni/net.d/{host.configuration.name}"}
    (multus["plugins"][0] if "plugins" in multus else multus).update(network)
    path = host.conf_dir / ("00-multus.conflist" if "plugins" in multus else "00-multus.conf")
    path.write_text(json.dumps(multus))
    assert host.run("install") == 0
    assert [plugin["type"] for plugin in host.plugins()] == ["bridge", "egress-gateway"]
    assert json.loads(path.read_text()) == multus


def test_a_plugin_that_cannot_run_is_not_chained(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.configure()
    for text, reason in {
        "#!/no/python3\n": "it cannot run with /no/python3: No such file or directory",
        "#!/bin/sh\necho broken >&2; exit 3\n": "exit code 3, broken",
        "#!/bin/sh\necho well\n": "it does not answer CNI_COMMAND=VERSION",
    }.items():
        host.plugin.write_text(text)
        assert host.run("install") == 1
        assert json.loads(host.configuration.read_text()) == OTHERS
        assert reason in capsys.readouterr().err
        assert any(reason in message for message in host.reported())


def test_a_watch_takes_out_what_stops_running_and_puts_it_back(host: Host, tmp_path: Path) -> None:
    shell = tmp_path / "interpreter"
    shutil.copy("/bin/sh", shell)
    host.plugin.write_text(SPEAKS.replace("/bin/sh", str(shell)))
    host.configure()
    with host.watching(tmp_path / "log"):
        for _ in range(2):
            until(lambda: len(host.plugins()) == 2, "ours is chained", 30)
            until(lambda: not host.reported(), "all is well", 30)
            shell.rename(tmp_path / "away")
            until(lambda: len(host.plugins()) == 1, "ours is taken out", 30)
            until(
                lambda: f"it cannot run with {shell}" in "".join(host.reported()),
                "the reason is reported",
                30,
            )
            (tmp_path / "away").rename(shell)


def test_the_name_of_a_file_does_not_steer_a_terminal(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    (host.conf_dir / "10-\x1b[2J\nforged.conflist").write_text("{")
    (host.conf_dir / "20-\x1b[2J\nforged.conflist").write_text(json.dumps(OTHERS))
    for command in ("install", "remove"):
        host.run(command)
        said = capsys.readouterr()
        lines = (said.out + said.err).splitlines()
        assert lines
        assert all(line.isprintable() and not line.startswith("forged") for line in lines)
