"""The house rules that a program can check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CHECKS = {
    "ruff": [str(BIN / "ruff"), "check", "cni", "gateway_agent", "packaging", "tests"],
    "ruff format": [str(BIN / "ruff"), "format", "--check", "cni", "gateway_agent", "packaging", "tests"],
    "mypy": [str(BIN / "mypy")],
    "mypy, lab": [str(BIN / "mypy"), "-p", "tests.lab", "-p", "tests.bench", "-p", "tests.e2e"],
    "import-linter": [str(BIN / "lint-imports"), "--no-logo", "--no-cache"],
    "shellcheck": [
        "shellcheck",
        "install.sh",
        ".ci/run",
        "tests/lab/isolated.sh",
        "tests/lab/apiserver/kube_apiserver.sh",
    ],
}


@pytest.mark.parametrize("name", CHECKS)
def test_check_passes(name: str) -> None:
    command = CHECKS[name]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
