"""A machine of the lab with files of its own: a bare Debian, as ``debootstrap`` makes it, with systemd."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Sequence
from pathlib import Path

from .namespace import REPOSITORY, Namespace, run
from .systemd import PATH, Systemd

MIRROR = "http://deb.debian.org/debian"
BARE = ("ca-certificates", "dbus", "iproute2", "procps", "systemd-sysv")
"""Packages that each installed Debian has and the smallest variant of debootstrap does not."""
ROOTS = REPOSITORY / "build" / "debian"
BOOT = """
set -e
mount --make-rslave /
mount -t tmpfs tmpfs "$1"
mkdir "$1/root" "$1/upper" "$1/work" "$1/containers"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir -p var/lib/containers
mount --bind ../containers var/lib/containers # podman's storage is no overlay of an overlay
mount -t tmpfs tmpfs run
mkdir before
pivot_root . before
umount -l before
hostname >etc/hostname
exec env -i container=other PATH="$3" /lib/systemd/systemd --system --unit=multi-user.target --log-target=console \
  --show-status=no
"""
"""Arguments: a directory; the root file system below the machine's own files; the path of programs."""


def root_of(suite: str, packages: Sequence[str]) -> Path:
    """Return the root file system of a bare Debian; make it on the first call, which needs a mirror.

    Its packages are those of a small installation. ``packages``, and what they need, lie in its cache: a machine of
    the lab has no network, and installs them from there. Raises :class:`.namespace.CommandFailed`.
    """
    root = ROOTS / suite
    ROOTS.mkdir(parents=True, exist_ok=True)
    with (ROOTS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = ROOTS / f"{suite}.packages"
        if stamp.exists() and set(packages) <= set(stamp.read_text().split()):
            return root
        if root.exists():
            shutil.rmtree(root)
        argv = ["debootstrap", "--variant=minbase", f"--include={','.join(BARE)}", suite, str(root), MIRROR]
        run(argv, seconds=900)
        fetch = "apt-get -qq update; apt-get -qq install --download-only --no-install-recommends"
        run(["chroot", str(root), "sh", "-c", f"{fetch} {' '.join(packages)}"], seconds=900)
        stamp.write_text("\n".join(sorted(packages)))
    return root


class Debian(Systemd):
    """A machine whose files are a copy of those below ``root``; what it writes goes with it."""

    def __init__(self, machine: Namespace, directory: Path, host_name: str, root: Path) -> None:
        super().__init__(machine, directory, host_name)
        self._root = root

    def boot(self) -> tuple[str, ...]:
        """Return the command that becomes systemd in namespaces of its own."""
        script = f"hostname {self.host_name}; {BOOT}"
        return ("sh", "-c", script, "boot", str(self.directory), str(self._root), PATH)

    def entering(self) -> tuple[str, ...]:
        """Return what starts a program on the machine, in its root directory."""
        return ("nsenter", f"--target={self.first}", "--all")
