"""The trial of a kernel, in a network namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gateway_agent.node_install.preflight import TRIAL

COMMAND = ("unshare", "--net", sys.executable, "-m", TRIAL)


def test_this_kernel_passes_and_this_network_gets_nothing() -> None:
    before = subprocess.run(("nft", "list", "tables"), capture_output=True, text=True, check=True).stdout
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    after = subprocess.run(("nft", "list", "tables"), capture_output=True, text=True, check=True).stdout
    assert after == before


def test_rules_need_no_names_of_protocols_and_services() -> None:
    """A container image may lack the files that have them."""
    files = [name for name in ("/etc/protocols", "/etc/services") if Path(name).exists()]
    hidden = " && ".join(f"mount --bind /dev/null {name}" for name in files)
    command = ("unshare", "--net", "--mount", "sh", "-c", f'{hidden} && exec "$@"', "trial", *COMMAND[2:])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert files
    assert (done.returncode, done.stderr) == (0, "")


def test_a_kernel_that_refuses_is_named_with_the_reason() -> None:
    """Without the right to change it, every kernel refuses."""
    command = ("unshare", "--net", "setpriv", "--bounding-set=-net_admin", *COMMAND[2:])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 1
    assert "not permitted" in done.stderr
