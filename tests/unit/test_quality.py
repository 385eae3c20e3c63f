"""The house rules that a program can check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..tools import house

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TYPED = ("cni", "gateway_agent", "tests")
TIMEOUT_S = 900
"""Seconds that suffice with the processor time that labs leave."""
CHECKS = {
    "ruff": [str(BIN / "ruff"), "check", "cni", "gateway_agent", "packaging", "tests"],
    "ruff format": [str(BIN / "ruff"), "format", "--check", "cni", "gateway_agent", "packaging", "tests"],
    # One run: two at a time would both read the whole product.
    "mypy": [str(BIN / "mypy"), *(f"--package={name}" for name in TYPED)],
    "import-linter": [str(BIN / "lint-imports"), "--no-logo", "--no-cache"],
    "shellcheck": [
        "shellcheck",
        "--external-sources",
        "install.sh",
        "packaging/node.sh",
        ".ci/run",
        "tests/isolated_python",
        "tests/lab/apiserver/kube_apiserver.sh",
    ],
}


@pytest.mark.parametrize("name", CHECKS)
def test_check_passes(name: str) -> None:
    command = CHECKS[name]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_no_file_function_or_package_is_too_large() -> None:
    assert house.too_large(REPOSITORY) == []
