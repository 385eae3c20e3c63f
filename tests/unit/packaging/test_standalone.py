"""The plugin with its own interpreter: one static file, whole, and the same each time."""

from __future__ import annotations

import json
import marshal
import os
import random
import shutil
import struct
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from cni import contract
from cni.version import VERSION
from tests.lab.namespace import REPOSITORY

from ..cni.agent import Answering, FakeAgent
from ..cni.test_protocol import RESULT, environment, stdin

BUILDER = REPOSITORY / "packaging" / "build_standalone.py"
PT_INTERP, PT_DYNAMIC = 3, 2
PYC_HEADER = 16
ODD = (
    b"",
    b"\xff",
    b"\xc3\xa9",
    b"\\ud800",
    b'"',
    b"{",
    b"[" * 5000,
    b"\0",
    b"9" * 6000,
    b"NaN",
    b"1e999",
    b" ",
)
IMPORTING = """
import sys
from cni import vendored as bundle
bundle.unpack()
import pkgutil, cni, pyroute2
for module in pkgutil.walk_packages(cni.__path__, "cni."):
    if module.name != "cni.__main__":
        __import__(module.name)
with pyroute2.IPRoute(strict_check=True) as route:
    assert route.get_links()
"".encode("ascii").decode("latin-1")
open("/proc/self/status", encoding="ascii").read()
print(*sorted({getattr(module, "__file__", None) or "/proc/self/" for module in sys.modules.values()}))
sys.stdout.flush()
"""


def build(output: Path) -> Path:
    subprocess.run([sys.executable, str(BUILDER), "--output", str(output)], check=True)
    return output


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("standalone") / "egress-gateway")


def run(built: Path, env: dict[bytes, bytes], raw: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([built], env=env, input=raw, capture_output=True, timeout=30, check=False)


def with_main(built: Path, code: str, output: Path) -> Path:
    """Write the same program with another ``main()`` in the place of the plugin's own."""
    with zipfile.ZipFile(built) as archive:
        content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        start = min(entry.header_offset for entry in archive.infolist())
    other = compile(f"def main():\n{textwrap.indent(code, '    ')}", "main", "exec")
    content["cni/protocol.pyc"] = content["cni/protocol.pyc"][:PYC_HEADER] + marshal.dumps(other)
    output.write_bytes(built.read_bytes()[:start])
    with zipfile.ZipFile(output, "a") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    output.chmod(0o755)
    return output


def test_two_builds_are_the_same(built: Path, tmp_path: Path) -> None:
    assert build(tmp_path / "second").read_bytes() == built.read_bytes()


def test_nothing_of_this_machine_is_in_it(built: Path) -> None:
    whole = built.read_bytes()
    assert str(REPOSITORY).encode() not in whole
    assert b"site-packages/pyroute2" not in whole


def test_it_needs_no_loader(built: Path) -> None:
    """Read from the program headers: see elf(5)."""
    head = built.read_bytes()[:4096]
    offset, size, count = *struct.unpack_from("=Q", head, 32), *struct.unpack_from("=HH", head, 54)
    kinds = {struct.unpack_from("=I", head, offset + size * number)[0] for number in range(count)}
    assert kinds & {PT_INTERP, PT_DYNAMIC} == set()


def test_version(built: Path) -> None:
    outcome = run(built, {b"CNI_COMMAND": b"VERSION"})
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    assert json.loads(outcome.stdout)["supportedVersions"][-1] == "1.1.0"
    assert run(built, {}).returncode == 1
    named = subprocess.run(
        [built, "--version"], env={}, capture_output=True, text=True, timeout=30, check=True
    )
    assert named.stdout == f"egress-gateway {VERSION}\n"


def test_no_variable_of_the_environment_leads_it_elsewhere(built: Path, tmp_path: Path) -> None:
    (tmp_path / "cni").mkdir()
    (tmp_path / "cni" / "__init__.py").write_text("raise SystemExit('another one')")
    names = (b"PYTHONPATH", b"PYTHONHOME", b"LD_LIBRARY_PATH", b"LD_PRELOAD")
    env = {b"CNI_COMMAND": b"VERSION", **{name: os.fsencode(tmp_path) for name in names}}
    outcome = subprocess.run([built], env=env, cwd=tmp_path, capture_output=True, timeout=30, check=True)
    assert b"supportedVersions" in outcome.stdout


def test_it_is_named_by_any_path(built: Path, tmp_path: Path) -> None:
    link = tmp_path / "a link"
    link.symlink_to(built)
    env = {"CNI_COMMAND": "VERSION", "PATH": str(built.parent)}
    for name, cwd in ((str(link), "/"), (f"./{built.name}", built.parent), (built.name, "/")):
        done = subprocess.run([name], env=env, cwd=cwd, capture_output=True, timeout=30, check=True)
        assert b"supportedVersions" in done.stdout


@pytest.mark.parametrize(("answer", "status"), [(b"OK", 0), (b'ER{"code": 11, "msg": "later"}', 1)])
def test_it_asks_the_agent(answer: bytes, status: int, built: Path, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with FakeAgent(path, Answering(answer)):
        outcome = run(built, environment(), stdin(path))
    assert outcome.returncode == status
    assert outcome.stdout == (RESULT.encode() if answer == contract.OK else answer[2:])


def test_a_call_that_runs_ends_though_the_file_is_replaced(built: Path, tmp_path: Path) -> None:
    """It has to read the libraries out of its file, for the agent is away."""
    installed, following = tmp_path / "egress-gateway", tmp_path / "following"
    shutil.copy(built, installed)
    following.write_text("the next version")
    command = subprocess.Popen(
        [installed], env=environment("STATUS"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    os.replace(following, installed)
    output, _ = command.communicate(stdin(tmp_path / "agent.sock", cniVersion="1.1.0"), timeout=30)
    assert json.loads(output)["code"] == contract.NOT_AVAILABLE


def test_odd_input_is_answered_as_by_the_nodes_python(built: Path, tmp_path: Path) -> None:
    zipapp = tmp_path / "zipapp"
    command = [sys.executable, str(BUILDER.with_name("build_zipapp.py")), "--output", str(zipapp)]
    subprocess.run(command, check=True)
    chance = random.Random(10)
    whole = stdin(tmp_path / "agent.sock")
    for _ in range(40):
        at = chance.randrange(len(whole))
        raw = whole[:at] + chance.choice(ODD) + whole[at + chance.randrange(3) :]
        env = environment(chance.choice(("ADD", "DEL", "STATUS")))
        env[b"LC_ALL"] = chance.choice((b"C", b"xx", b"C.UTF-8"))
        env[b"CNI_NETNS"] += chance.choice(ODD).replace(b"\0", b"")
        ours, theirs = (run(file, env, raw) for file in (built, zipapp))
        assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, b""), (
            env,
            raw,
        )
        assert not ours.stdout or json.loads(ours.stdout).get("code") != contract.INTERNAL, ours.stdout


def test_closed_output_is_a_failure_and_no_signal(built: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run(
            [built],
            env={"CNI_COMMAND": "VERSION"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_all_that_it_imports_is_in_it(built: Path, tmp_path: Path) -> None:
    importing = with_main(built, IMPORTING, tmp_path / "importing")
    outcome = run(importing, {})
    assert outcome.stderr == b""
    assert [path for path in outcome.stdout.decode().split() if not path.startswith("/proc/self/")] == []


def test_a_python_that_it_cannot_be_linked_of_is_named(tmp_path: Path) -> None:
    python = tmp_path / "python3.42"
    answer = {"version": "3.42", "include": "/", "libraries": "/", "library": "x.a", "stdlib": "/"}
    python.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    python.chmod(0o755)
    command = [sys.executable, str(BUILDER), "--output", str(tmp_path / "x"), "--python", str(python)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"CPython 3.42 of {python}" in done.stderr
    assert not (tmp_path / "x").exists()
