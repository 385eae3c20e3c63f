"""The nodes of a lab as machines with a bare Debian, and programs that reach them by their names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..lab import topology
from ..lab.debian import Debian, root_of
from ..lab.lab import Lab

Machines = Callable[[str, tuple[str, ...], tuple[str, ...]], dict[str, Debian]]
SSH = """#!/bin/sh -eu
# As ssh: root@NODE COMMAND…
node=${1#root@}; shift
exec $(cat "$(dirname "$0")/$node.entering") env -i PATH="$PATH" HOME=/root TERM=dumb sh -c "cd; $*"
"""
SCP = """#!/bin/sh -eu
# As scp: -qr FILE… root@NODE:
shift
for last; do :; done
node=${last#root@}; node=${node%:}
set -- "$@"
while [ $# -gt 1 ]; do
  tar -cf - "$1" | "$(dirname "$0")/ssh" "root@$node" tar -xf - --no-same-owner
  shift
done
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(topology.separate(workers=2, gateways=2)) as made:
        yield made


@pytest.fixture
def machines(lab: Lab, tmp_path: Path) -> Iterator[Machines]:
    """Yield a function that starts bare Debians; its arguments: the suite, packages at hand, and names of nodes."""
    with contextlib.ExitStack() as stack:

        def start(suite: str, packages: tuple[str, ...], names: tuple[str, ...]) -> dict[str, Debian]:
            root = root_of(suite, packages)
            made = {}
            for name in names:
                made[name] = Debian(lab.machines[name], tmp_path / name, name, root)
                stack.callback(made[name].end)
                made[name].start()
            return made

        yield start


@pytest.fixture
def reach(tmp_path: Path) -> Callable[[dict[str, Debian]], dict[str, str]]:
    """Return a function that returns an environment whose ``ssh`` and ``scp`` reach the machines by their names."""

    def programs(machines: dict[str, Debian]) -> dict[str, str]:
        place = tmp_path / "programs"
        place.mkdir()
        for name, text in (("ssh", SSH), ("scp", SCP)):
            (place / name).write_text(text)
            (place / name).chmod(0o755)
        for name, machine in machines.items():
            (place / f"{name}.entering").write_text(" ".join(machine.entering()))
        return {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}

    return programs
