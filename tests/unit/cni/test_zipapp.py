"""The built file: the same each time, light on its way to the agent, whole where it must act alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cni import contract
from cni.version import VERSION

from .agent import Answering, FakeAgent
from .test_protocol import RESULT, environment, stdin

ROOT = Path(__file__).parents[3]
PYTHON = "/usr/bin/python3"
TOO_HEAVY = {
    "argparse",
    "asyncio",
    "collections",
    "dataclasses",
    "functools",
    "importlib",
    "json",
    "logging",
    "os",
    "pyroute2",
    "re",
    "select",
    "selectors",
    "site",
    "socket",
    "subprocess",
    "types",
    "typing",
    "zlib",
}
"""Modules that must not be imported on the way to the agent."""


def build(output: Path) -> Path:
    command = [sys.executable, str(ROOT / "packaging" / "build_zipapp.py"), "--output", str(output)]
    subprocess.run(command, check=True)
    return output


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built") / "egress-gateway")


def boot(built: Path) -> list[str]:
    """Return the interpreter's arguments as the kernel makes them of the file's first line."""
    with built.open("rb") as file:
        interpreter, argument = file.readline().decode().strip().removeprefix("#!").split(" ", 1)
    return [interpreter, argument, str(built)]


def run(command: list[str], env: dict[bytes, bytes], raw: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, env=env, input=raw, capture_output=True, timeout=30, check=False)


def test_two_builds_are_the_same(built: Path, tmp_path: Path) -> None:
    assert build(tmp_path / "second").read_bytes() == built.read_bytes()


def test_nothing_of_this_machine_is_in_it(built: Path) -> None:
    whole = built.read_bytes()
    assert str(ROOT).encode() not in whole
    assert b"site-packages" not in whole


@pytest.mark.parametrize("by", ["itself", "python3"])
def test_version(by: str, built: Path, tmp_path: Path) -> None:
    command = [str(built)] if by == "itself" else [PYTHON, str(built)]
    outcome = run(command, {b"CNI_COMMAND": b"VERSION"})
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    assert json.loads(outcome.stdout)["supportedVersions"][-1] == "1.1.0"


def test_by_another_python_than_it_was_compiled_for(built: Path, tmp_path: Path) -> None:
    """With a foreign magic number in each ``.pyc`` the sources are taken."""
    foreign = tmp_path / "egress-gateway"
    magic = subprocess.run(
        [PYTHON, "-c", "import sys, importlib.util as u; sys.stdout.buffer.write(u.MAGIC_NUMBER)"],
        capture_output=True,
        check=True,
    ).stdout
    # Entries are stored as they are, so their checksums are those of the directory: zipimport looks at none.
    whole = built.read_bytes()
    assert magic + b"\x01\0\0\0" in whole
    foreign.write_bytes(whole.replace(magic + b"\x01\0\0\0", b"\x01\x02\r\n\x01\0\0\0"))
    foreign.chmod(0o755)
    outcome = run([str(foreign)], {b"CNI_COMMAND": b"VERSION"})
    assert (outcome.returncode, outcome.stderr) == (0, b"")


@pytest.mark.parametrize(("answer", "status"), [(b"OK", 0), (b'ER{"code": 11, "msg": "later"}', 1)])
def test_it_is_light_on_the_way_to_the_agent(answer: bytes, status: int, built: Path, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    interpreter, *rest = boot(built)
    with FakeAgent(path, Answering(answer)):
        outcome = run([interpreter, "-X", "importtime", *rest], environment(), stdin(path))
    assert outcome.returncode == status
    assert outcome.stdout == (RESULT.encode() if answer == contract.OK else answer[2:])
    imported = {line.rsplit(b"|", 1)[1].strip().decode() for line in outcome.stderr.splitlines()[1:]}
    assert "cni.plugin" in imported
    assert {name.split(".")[0] for name in imported} & TOO_HEAVY == set()


def test_an_agent_that_hangs_up(built: Path, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with FakeAgent(path, Answering(b"")):
        outcome = run([str(built)], environment("STATUS"), stdin(path, cniVersion="1.1.0"))
    assert (outcome.returncode, outcome.stderr) == (1, b"")
    error = json.loads(outcome.stdout)
    assert error["code"] == contract.NOT_AVAILABLE
    assert "closed the connection" in error["details"]


def test_it_names_its_version_on_a_command_line_only(built: Path) -> None:
    outcome = run([str(built), "--version"], {})
    assert (outcome.returncode, outcome.stdout) == (0, f"egress-gateway {VERSION}\n".encode())
    outcome = run([str(built), "--version"], {b"CNI_COMMAND": b"VERSION"})
    assert b"supportedVersions" in outcome.stdout


@pytest.mark.parametrize(
    "text", ['{"a": [1 2]}', '{"a": {"b" 1}}', '{"a": "\\x"}', '{"a', '{"a": "b', '{"a": tru}']
)
def test_what_is_no_json_is_called_so(text: str, built: Path) -> None:
    """In a process that has not imported ``json``: ``_json`` alone cannot say what is wrong."""
    outcome = run([str(built)], {b"CNI_COMMAND": b"STATUS"}, text.encode())
    assert (outcome.returncode, outcome.stderr) == (1, b"")
    error = json.loads(outcome.stdout)
    assert error["code"] == contract.NOT_JSON, error


def test_closed_output_is_a_failure_and_no_traceback(built: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        outcome = subprocess.run(
            [str(built)],
            env={"CNI_COMMAND": "VERSION"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert (outcome.returncode, outcome.stderr) == (1, b"")


def test_pyroute2_comes_out_of_it(built: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from cni import vendored; vendored.unpack(); import pyroute2;"
        "from cni.kernel.netlink import links; links.tagged(); print(pyroute2.__file__)"
    )
    outcome = run([PYTHON, "-ISEc", code, str(built)], {})
    assert outcome.stderr == b""
    assert outcome.stdout.startswith(b"/proc/self/fd/")


@pytest.mark.parametrize("python", ["python3", "/usr/bin/env python3", "/" + "long/" * 40 + "python3"])
def test_an_interpreter_that_the_first_line_cannot_name(python: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "packaging" / "build_zipapp.py"),
        "--output",
        str(tmp_path / "x"),
        "--python",
    ]
    outcome = run([*command, python], dict(os.environb))
    assert outcome.returncode == 1
    assert b"absolute path" in outcome.stderr
    assert not (tmp_path / "x").exists()
