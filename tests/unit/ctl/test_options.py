"""The configuration that the options of ``egressctl`` name."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from gateway_agent.config import AgentConfig, ConfigError
from gateway_agent.ctl import options


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(parents=[options.common_options()])
    parser.set_defaults(config=None, output="text")
    return parser.parse_args(arguments)


def file(directory: Path, text: str) -> Path:
    path = directory / "agent.yaml"
    path.write_text(text)
    return path


def test_the_run_directory_is_that_of_the_named_file(tmp_path: Path) -> None:
    path = file(tmp_path, f"runDir: {tmp_path}/run\nstore: {{kind: files}}\n")
    assert options.run_dir(parsed("--config", str(path))) == tmp_path / "run"


def test_without_a_configuration_it_is_the_default_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(options, "DEFAULT_PATH", tmp_path / "nothing.yaml")
    assert options.run_dir(parsed()) == AgentConfig.run_dir


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        options.run_dir(parsed("--config", str(tmp_path / "nothing.yaml")))


def test_an_error_in_another_value_is_only_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(tmp_path, f"runDir: {tmp_path}/run\nstore: {{kind: files}}\nmetrics: {{listen: 7}}\n")
    assert options.run_dir(parsed("--config", str(path))) == tmp_path / "run"
    assert "egressctl: warning:" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["runDir: relative", "cluster: {keyFile: 7}"])
def test_a_wrong_path_that_commands_need_is_an_error(tmp_path: Path, line: str) -> None:
    path = file(tmp_path, f"store: {{kind: files}}\n{line}\n")
    with pytest.raises(ConfigError):
        options.configuration(parsed("--config", str(path)))


def test_an_option_before_the_command_is_not_overridden(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser(parents=[options.common_options()])
    parser.set_defaults(config=None, output="text")
    commands = parser.add_subparsers()
    commands.add_parser("status", parents=[options.common_options()])
    assert parser.parse_args(["-o", "json", "status"]).output == "json"
    assert parser.parse_args(["status", "-o", "json"]).output == "json"
