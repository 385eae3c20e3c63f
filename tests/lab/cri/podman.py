"""podman on one machine of a lab: everything that it keeps lies in one directory."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cnirun import OUR_PLUGINS, REFERENCE_PLUGINS, Network
from ..namespace import Namespace, run
from ..pod import Client
from .containerd import IMAGE, image

CONFIGURATION = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
pids_limit = 0
[network]
{backend}
cni_plugin_dirs = ["{directory}/bin"]
network_config_dir = "{directory}/net.d"
default_network = "{network}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
infra_image = "{image}"
lock_type = "file"
runtime = "runc"
stop_timeout = 1
static_dir = "{directory}/root/libpod"
tmp_dir = "{directory}/tmp"
volume_path = "{directory}/root/volumes"
"""


class PodmanError(Exception):
    """What podman said instead of doing it."""


class Container(Client):
    """A container that runs, with a network namespace that has a name in the lab."""

    def __init__(self, podman: Podman, name: str) -> None:
        super().__init__(Namespace(f"{podman.machine.name}-{name}"))
        self.name = name
        self._podman = podman
        self.attach()

    def attach(self) -> None:
        """Name its network namespace, after a start of its own too."""
        if self.machine.path.exists():
            self.detach()
        pid = self._podman.inspect(self.name)["State"]["Pid"]
        run(["ip", "netns", "attach", self.machine.name, str(pid)])

    def detach(self) -> None:
        """Take the name away; what runs there goes on."""
        run(["ip", "netns", "delete", self.machine.name])

    def stop(self) -> None:
        """Remove it."""
        self.detach()
        self._podman.call("rm", "--force", "--time", "0", self.name)


class Podman:
    """Its networks are made by CNI plugins; ``chooses``: by what podman itself prefers, which is netavark."""

    def __init__(self, machine: Namespace, directory: Path, chooses: bool = False) -> None:
        self.machine = machine
        self.directory = directory
        self.root = directory / "root"
        self._backend = "" if chooses else 'network_backend = "cni"'
        for name in ("bin", "net.d"):
            (directory / name).mkdir(parents=True)
        for source in (REFERENCE_PLUGINS, OUR_PLUGINS):
            for plugin in source.iterdir():
                if plugin.is_file() and os.access(plugin, os.X_OK):
                    (directory / "bin" / plugin.name).symlink_to(plugin)
        archive = directory / "image.tar"
        archive.write_bytes(image())
        self._configure("podman")
        self.call("load", "--quiet", "--input", str(archive))

    def use(self, network: Network) -> None:
        """Set the network of containers that start from now on."""
        content = {"cniVersion": network.cni_version, "name": network.name, "plugins": list(network.plugins)}
        (self.directory / "net.d" / f"{network.name}.conflist").write_text(json.dumps(content))
        self._configure(network.name)

    def start(self, name: str, labels: Mapping[str, str], *options: str) -> Container:
        """Run a container that waits. Raises :class:`PodmanError` with the plugin's words."""
        label_options = (f"--label={key}={value}" for key, value in labels.items())
        self.call("run", "--detach", "--name", name, *label_options, *options, IMAGE)
        return Container(self, name)

    def inspect(self, name: str) -> dict[str, Any]:
        """Return podman's description of a container."""
        return dict(json.loads(self.call("container", "inspect", name))[0])

    def call(self, *arguments: str) -> str:
        """Return the standard output of a command. Raises :class:`PodmanError`."""
        # Not by ip netns exec, which gives it a /sys of its own: runc needs the cgroups that are mounted there.
        podman = ("podman", "--root", str(self.root), "--runroot", str(self.directory / "run"))
        done = subprocess.run(
            ["nsenter", f"--net={self.machine.path}", *podman, "--storage-driver", "vfs", *arguments],
            env={**os.environ, "CONTAINERS_CONF": str(self.directory / "containers.conf")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise PodmanError(done.stderr.strip())
        return done.stdout

    def end(self) -> None:
        """Remove all that it runs."""
        self.call("pod", "rm", "--force", "--all", "--time", "0")
        self.call("rm", "--force", "--all", "--depend", "--time", "0")

    def _configure(self, network: str) -> None:
        text = CONFIGURATION.format(
            directory=self.directory, backend=self._backend, image=IMAGE, network=network
        )
        (self.directory / "containers.conf").write_text(text)
