"""The systemd units, as systemd reads them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from gateway_agent.config import AgentConfig
from gateway_agent.guard_file import NAME
from gateway_agent.lease.ipc import STAY
from tests.lab.namespace import REPOSITORY
from tests.lab.units import INSTALLED, UNITS, Unit

NAMES = ("agent", "lease")
ALL = (*NAMES, "guard")
MAX_EXPOSURE_BOUND = 3.0
ENGINES = {"kubelet.service", "containerd.service", "crio.service", "docker.service", "podman.service"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory with the units, whose programs are those of this repository."""
    for path in UNITS.iterdir():
        text = path.read_text().replace(INSTALLED, str(REPOSITORY / ".venv"))
        (tmp_path / path.name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ALL)
def test_systemd_takes_the_unit(name: str, directory: Path) -> None:
    command = ["systemd-analyze", "verify", "--man=no", str(directory / Unit(name).name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    about = [line for line in done.stderr.splitlines() if "egress-gateway" in line]
    assert (done.returncode, about) == (0, [])


@pytest.mark.parametrize("name", ALL)
def test_the_unit_is_confined(name: str, directory: Path) -> None:
    command = [
        "systemd-analyze",
        "security",
        "--offline=true",
        "--no-pager",
        str(directory / Unit(name).name),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found
    assert float(found[1]) <= MAX_EXPOSURE_BOUND


@pytest.mark.parametrize("name", ALL)
def test_what_starts_containers_comes_later(name: str) -> None:
    before = {unit for value in Unit(name).values("Before") for unit in value.split()}
    assert before >= ENGINES


@pytest.mark.parametrize("name", NAMES)
def test_the_run_directory_outlives_the_unit(name: str) -> None:
    unit = Unit(name)
    assert [f"/run/{path}" for path in unit.values("RuntimeDirectory")] == [os.fspath(AgentConfig.run_dir)]
    assert unit.values("RuntimeDirectoryPreserve") == ["yes"]


def test_the_guard_is_loaded_from_where_the_agent_leaves_it() -> None:
    path = str(AgentConfig.state_dir / NAME)
    unit = Unit("guard")
    assert unit.values("ConditionPathExists") == [path]
    assert [value.split()[-2:] for value in unit.values("ExecStart")] == [["-f", path]]
    assert [f"/var/lib/{name}" for name in Unit("agent").values("StateDirectory")] == [
        str(AgentConfig.state_dir)
    ]


def test_no_stop_of_the_agent_stops_the_lease_daemon() -> None:
    agent, lease = Unit("agent"), Unit("lease")
    assert lease.name in agent.values("Wants") and not agent.values("Requires")
    assert not [key for key in ("PartOf", "BindsTo", "Requires", "Requisite") for _ in lease.values(key)]
    # It hands over first, and conntrackd works until then.
    assert agent.values("KillMode") == ["mixed"]
    assert STAY in lease.command()
