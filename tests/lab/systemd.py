"""A machine of the lab with systemd: its first process in a pid namespace, on a copy of this machine's files.

``/etc``, ``/opt``, ``/usr/local``, ``/var/lib`` and ``/root`` are overlays: :meth:`Systemd.written` returns what the
machine has written there, and it goes with the machine. ``/run`` is its own, but for the names of network namespaces.
It has none of the units of this machine.
"""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
from pathlib import Path

import psutil

from .namespace import REPOSITORY, CommandFailed, Namespace
from .waiting import until

OVERLAID = ("etc", "opt", "usr/local", "root", "var/lib")
TARGETS = ("sysinit", "basic", "shutdown", "network", "multi-user")
DIRECTORY = "a directory"
RUN_DIR = "/run/egress-gateway"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT = """
set -e
mount --make-rslave /
mkdir "$1/netns"
mount --rbind /run/netns "$1/netns"
while mountpoint -q /run; do umount -l /run; done # systemd 252 leaves one below another writable
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/netns /run/units
mount --rbind "$1/netns" /run/netns # also those that are made later
umount -l /sys/fs/cgroup 2>/dev/null || true # a machine made by ip netns has none
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs "$1/layers"
for place in $2; do
  mkdir -p "$1/layers/upper/$place" "$1/layers/work/$place"
  mount -t overlay overlay -o "lowerdir=/$place,upperdir=$1/layers/upper/$place,workdir=$1/layers/work/$place" "/$place"
done
hostname >/etc/hostname
rm -rf /etc/cni
mkdir -p "$1/layers/units" /etc/systemd/system
mount --bind "$1/layers/units" /etc/systemd/system
for target in $3; do printf '[Unit]\\nDefaultDependencies=no\\n' >"/run/units/$target.target"; done
mkdir /run/units/egress-gateway-.service.d
printf '[Service]\\nStandardOutput=append:%s\\nStandardError=append:%s\\n' "$1/services.log" "$1/services.log" \
  >/run/units/egress-gateway-.service.d/log.conf
mount -t proc proc /proc
exec env -i container=other PATH="$4" SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units \
  /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no
"""
"""Arguments: a directory; what is overlaid; the targets that units name; the path of programs."""


class Systemd:
    """``machine``: the network that it has. ``host_name``: its name."""

    def __init__(self, machine: Namespace, directory: Path, host_name: str) -> None:
        self.machine = machine
        self.directory = directory
        self.host_name = host_name
        self._process: subprocess.Popen[bytes] | None = None
        self.first = 0
        (directory / "layers").mkdir(parents=True)

    def start(self) -> None:
        """Start systemd, and wait until it takes commands."""
        namespaces = (
            "--mount",
            "--propagation=unchanged",
            "--pid",
            "--uts",
            "--ipc",
            "--cgroup",
            "--fork",
            "--kill-child=KILL",
        )
        self._process = self.machine.spawn(
            "unshare", *namespaces, *self.boot(), log=self.directory / "systemd.log"
        )
        until(self._runs, f"systemd runs on {self.host_name}", 30)

    def boot(self) -> tuple[str, ...]:
        """Return the command that becomes systemd in namespaces of its own."""
        script = f"hostname {self.host_name}; {BOOT}"
        return ("sh", "-c", script, "boot", str(self.directory), " ".join(OVERLAID), " ".join(TARGETS), PATH)

    def _runs(self) -> bool:
        if not self.first:
            assert self._process is not None
            children = psutil.Process(self._process.pid).children()
            first = next((child for child in children if child.name() == "systemd"), None)
            if first is None:
                return False
            self.first = first.pid
        return self.attempt("systemctl", "is-active", "multi-user.target").stdout == "active\n"

    def run(self, *argv: str, seconds: float = 120.0, check: bool = True) -> str:
        """Return the output of a program on the machine. Raises :class:`CommandFailed` for another exit code than 0."""
        done = self.attempt(*argv, seconds=seconds)
        if check and done.returncode:
            raise CommandFailed(f"{' '.join(argv)}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def attempt(self, *argv: str, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a program on the machine, in this repository's directory."""
        command = (*self.entering(), "env", "-i", f"PATH={PATH}", "HOME=/root", *argv)
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)

    def entering(self) -> tuple[str, ...]:
        """Return what starts a program on the machine, in this repository's directory."""
        return ("nsenter", f"--target={self.first}", "--all", f"--wd={REPOSITORY}")

    def pid(self, unit: str) -> int:
        """Return the main process of a service, by its number on the machine; 0: none."""
        return int(self.run("systemctl", "show", "--property=MainPID", "--value", unit))

    def place(self, path: str) -> Path:
        """Return a path of the machine as seen from outside."""
        return Path(f"/proc/{self.first}/root{path}")

    def written(self) -> dict[str, tuple[int, str]]:
        """Return all that the machine has written over this machine's files, and its run directories."""
        layers = self.place(f"{self.directory}/layers")
        run = {f"run/{name}": found for name, found in _content(self.place(RUN_DIR)).items()}
        if self.place(RUN_DIR).exists():
            run[RUN_DIR] = (0, DIRECTORY)
        units = {f"units/{name}": found for name, found in _content(layers / "units").items()}
        upper = _content(layers / "upper")
        # A directory of this machine in which something was written has a copy there.
        own = {
            name: found
            for name, found in upper.items()
            if found[1] != DIRECTORY or not Path("/", name).is_dir()
        }
        return {**own, **units, **run}

    def end(self) -> None:
        """Kill all processes of the machine."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _content(root: Path) -> dict[str, tuple[int, str]]:
    """Return mode and content (a digest; of a link its target) of each path below a directory."""
    found = {}
    for path in sorted(root.rglob("*")):
        mode, content = path.lstat().st_mode, ""
        if stat.S_ISLNK(mode):
            content = os.readlink(path)
        elif stat.S_ISREG(mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISDIR(mode):
            content = DIRECTORY
        found[str(path.relative_to(root))] = (mode, content)
    return found
