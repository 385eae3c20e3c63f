"""The private modules of CPython: in one file, and with the documented ones in their place if they fail."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cni import contract, fastpath

from .agent import Answering, FakeAgent
from .test_protocol import RESULT, environment, stdin

ROOT = Path(__file__).parents[3]
PYTHONS = sorted({"/usr/bin/python3", sys.executable})
PRIVATE = {"_json", "_socket", "posix"}
FAULTS = {
    "none": "",
    "_json is missing": "missing = {'_json'}",
    "_socket is missing": "missing = {'_socket'}",
    "posix is missing": "missing = {'posix'}",
    "all are missing": "missing = {'_json', '_socket', 'posix'}",
    "the scanner takes other arguments": "import json, _json; _json.make_scanner = lambda context, more: None",
    "the scanner has another result": "import json, _json; _json.make_scanner = lambda context: str.partition",
    "the scanner asks for more settings": "import json, _json; _json.make_scanner = lambda context: context.array_hook",
    "the encoder has gone": "import json, _json; del _json.encode_basestring_ascii",
}
"""Faults of the interpreter. ``json`` works in every version of Python: it is imported before ``_json`` is altered."""
PLUGIN = """
import builtins, sys
real, missing = builtins.__import__, set()
{fault}
def refuse(name, globals=None, *rest, **more):
    if name in missing and globals and globals.get("__name__") == "cni.fastpath":
        raise ImportError(name)
    return real(name, globals, *rest, **more)
builtins.__import__ = refuse
sys.path.insert(0, {root!r})
from cni.protocol import main
main()
"""


def run(python: str, fault: str, env: dict[bytes, bytes], raw: bytes) -> subprocess.CompletedProcess[bytes]:
    code = PLUGIN.format(fault=FAULTS[fault], root=str(ROOT))
    return subprocess.run(
        [python, "-ISEBc", code], env=env, input=raw, capture_output=True, timeout=60, check=False
    )


def test_no_other_module_imports_them() -> None:
    found = {}
    for path in sorted((ROOT / "cni").rglob("*.py")):
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names = {
            name.split(".")[0]
            for node in tree
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
        }
        private = {n for n in names if n in PRIVATE or (n.startswith("_") and n != "__future__")}
        if private:
            found[path.name] = private
    assert found == {"fastpath.py": PRIVATE}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_pod_starts_whatever_is_missing(fault: str, python: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with FakeAgent(path, Answering(b"OK")):
        outcome = run(python, fault, environment(), stdin(path))
    assert (outcome.returncode, outcome.stderr, outcome.stdout.decode()) == (0, b"", RESULT)


@pytest.mark.parametrize("fault", ["none", "_json is missing"])
@pytest.mark.parametrize(
    "text", ['{"a": [1 2]}', '{"a": {"b" 1}}', '{"a": "\\x"}', '{"a', '{"a": NaN}', '{"a": tru}']
)
def test_what_is_no_json_is_called_so(text: str, fault: str) -> None:
    outcome = run(PYTHONS[0], fault, {b"CNI_COMMAND": b"STATUS"}, text.encode())
    assert (outcome.returncode, outcome.stderr) == (1, b"")
    assert json.loads(outcome.stdout)["code"] == contract.NOT_JSON


@pytest.mark.parametrize(
    "text", ['{"a": [1, 2.5e3, true, null], "ü": "\\ud83d\\ude00"}', '"x"', "7" * 5000, "[ ]", "-0.0"]
)
def test_both_read_and_write_the_same(text: str) -> None:
    (scan, quote), (other_scan, other_quote) = fastpath._builtin_json(), fastpath._documented_json()
    assert (
        scan(f" {text},", 1)
        == other_scan(f" {text},", 1)
        == (json.loads(text, parse_int=float), len(text) + 1)
    )
    assert quote(text) == other_quote(text)


@pytest.mark.parametrize("text", ["", "}", '"', '"\x00"', "NaN", "[1 2]", '{"a" 1}'])
def test_both_refuse_the_same(text: str) -> None:
    for scan, _ in (fastpath._builtin_json(), fastpath._documented_json()):
        with pytest.raises(ValueError):
            scan(text, 0)


def test_the_fast_modules_are_used() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import cni.protocol; print(*sys.modules)"
    done = subprocess.run([PYTHONS[0], "-ISEBc", code], capture_output=True, text=True, check=True)
    assert {"json", "socket", "os"} & set(done.stdout.split()) == set()
