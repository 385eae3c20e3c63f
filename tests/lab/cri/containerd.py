"""containerd with its CRI plugin, as a service of one machine of a lab."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc

from ..cnirun import OUR_PLUGINS, REFERENCE_PLUGINS, Network
from ..namespace import Namespace
from ..waiting import until

PROTO = Path(__file__).with_name("runtime.proto")
IMAGE = "localhost/pause:1"
PAUSE = Path("/bin/busybox")
"""Debian's busybox-static: an image needs a program that needs nothing."""
_GENERATING = threading.Lock()
CONFIGURATION = """
version = 2
root = "{directory}/root"
state = "{directory}/state"
oom_score = 0

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_tcp_service = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{directory}/bin"
  conf_dir = "{directory}/net.d"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
"""


class Containerd:
    """``directory`` holds all its files. Sandboxes outlive it, as they do on a node."""

    def __init__(self, machine: Namespace, directory: Path) -> None:
        self.machine = machine
        self.directory = directory
        self.log = directory / "containerd.log"
        # A directory of its own, which a container can have.
        self.socket = directory / "run" / "c.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None
        self._runtime: Any = None
        for name in ("bin", "net.d", "run"):
            (directory / name).mkdir(parents=True)
        for source in (REFERENCE_PLUGINS, OUR_PLUGINS):
            for plugin in source.iterdir():
                if plugin.is_file() and os.access(plugin, os.X_OK):
                    (directory / "bin" / plugin.name).symlink_to(plugin)
        text = CONFIGURATION.format(directory=directory, socket=self.socket, image=IMAGE)
        (directory / "config.toml").write_text(text)

    def use(self, network: Network) -> None:
        """Set the network of pods that start from now on."""
        content = {"cniVersion": network.cni_version, "name": network.name, "plugins": list(network.plugins)}
        draft = self.directory / "net.d" / ".draft"
        draft.write_text(json.dumps(content))
        draft.rename(self.directory / "net.d" / "10-net.conflist")

    def start(self, without: Path | None = None, programs: Path | None = None) -> None:
        """Return when it answers and its network is ready. It, and what it starts, finds no program ``without``.

        ``programs``: a directory with another containerd and its shim.
        """
        # Not by ip netns exec, which gives it a /sys of its own: runc needs the cgroups that are mounted there.
        command = ["nsenter", f"--net={self.machine.path}", "containerd"]
        if without:
            hidden = f"mount --bind /dev/null {without} && exec " + '"$@"'
            command[2:2] = ["unshare", "--mount", "sh", "-c", hidden, "sh"]
        path = os.pathsep.join([*([str(programs)] if programs else ()), os.environ["PATH"]])
        with self.log.open("ab") as log:
            options = ["--config", str(self.directory / "config.toml")]
            self._process = subprocess.Popen(
                [*command, *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PATH": path},
            )
        self._channel = grpc.insecure_channel(f"unix://{self.socket}")
        _, services = stubs()
        self._runtime = services.RuntimeServiceStub(self._channel)
        until(self._answers, f"containerd answers: see {self.log}")
        self._load_image()
        until(self._ready, f"containerd has its network: see {self.log}")

    def end(self, number: int = signal.SIGTERM) -> None:
        """End the service. What it has started goes on."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    @property
    def pid(self) -> int:
        """Of the service."""
        if self._process is None:
            raise RuntimeError("containerd does not run")
        return self._process.pid

    def run(self, namespace: str, name: str, uid: str) -> str:
        """Start a pod's sandbox; returns its id. Raises :class:`grpc.RpcError` with the plugin's words."""
        messages, _ = stubs()
        metadata = messages.PodSandboxMetadata(name=name, uid=uid, namespace=namespace)
        config = messages.PodSandboxConfig(
            metadata=metadata, hostname=name[:63], log_directory=str(self.directory)
        )
        answer = self._runtime.RunPodSandbox(messages.RunPodSandboxRequest(config=config), timeout=60)
        return str(answer.pod_sandbox_id)

    def stop(self, sandbox: str) -> None:
        """Stop and removes a sandbox."""
        messages, _ = stubs()
        self._runtime.StopPodSandbox(messages.StopPodSandboxRequest(pod_sandbox_id=sandbox), timeout=60)
        self._runtime.RemovePodSandbox(messages.RemovePodSandboxRequest(pod_sandbox_id=sandbox), timeout=60)

    def status(self, sandbox: str) -> tuple[str, int]:
        """Its address and the process in it."""
        messages, _ = stubs()
        request = messages.PodSandboxStatusRequest(pod_sandbox_id=sandbox, verbose=True)
        answer = self._runtime.PodSandboxStatus(request, timeout=20)
        return str(answer.status.network.ip), int(json.loads(answer.info["info"])["pid"])

    @property
    def service(self) -> Any:
        """The CRI's calls, by their names."""
        if self._runtime is None:
            raise RuntimeError("containerd was never started")
        return self._runtime

    def sandboxes(self) -> list[str]:
        messages, _ = stubs()
        found = self._runtime.ListPodSandbox(messages.ListPodSandboxRequest(), timeout=20)
        return [str(item.id) for item in found.items]

    def _answers(self) -> bool:
        messages, _ = stubs()
        try:
            return bool(self._runtime.Version(messages.VersionRequest(), timeout=2).runtime_name)
        except grpc.RpcError:
            return False

    def _ready(self) -> bool:
        messages, _ = stubs()
        conditions = self._runtime.Status(messages.StatusRequest(), timeout=5).status.conditions
        return all(condition.status for condition in conditions)

    def load(self, archive: Path) -> None:
        """Take the image in an archive."""
        self.machine.run(
            "ctr", "--address", str(self.socket), "--namespace", "k8s.io",
            "images", "import", "--snapshotter", "native", str(archive),
        )  # fmt: skip

    def _load_image(self) -> None:
        archive = self.directory / "pause.tar"
        if not archive.exists():
            archive.write_bytes(image())
            self.load(archive)


def stubs() -> tuple[Any, Any]:
    """Return the generated modules: messages and services."""
    with _GENERATING:
        return _generated()


@lru_cache
def _generated() -> tuple[Any, Any]:
    # A directory for each process: tests that run side by side do not read what another is writing.
    with tempfile.TemporaryDirectory() as stubs:
        arguments = [f"-I{PROTO.parent}", f"--python_out={stubs}", f"--grpc_python_out={stubs}", PROTO.name]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True)
        sys.path.insert(0, stubs)
        try:
            return importlib.import_module("runtime_pb2"), importlib.import_module("runtime_pb2_grpc")
        finally:
            sys.path.remove(stubs)


def image() -> bytes:
    """Return an OCI image archive with a program that waits."""
    layer = _tar({"bin/busybox": PAUSE.read_bytes()}, mode=0o755)
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "1000000"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs: dict[str, bytes] = {}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _blob(blobs, "application/vnd.oci.image.config.v1+json", json.dumps(config).encode()),
        "layers": [_blob(blobs, "application/vnd.oci.image.layer.v1.tar", layer)],
    }
    named = _blob(blobs, manifest["mediaType"], json.dumps(manifest).encode())
    named["annotations"] = {"io.containerd.image.name": IMAGE, "org.opencontainers.image.ref.name": IMAGE}
    index = {"schemaVersion": 2, "manifests": [named]}
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index).encode(),
        **blobs,
    }
    return _tar(files, mode=0o644)


def _blob(blobs: dict[str, bytes], media_type: Any, content: bytes) -> dict[str, Any]:
    digest = _digest(content)
    blobs[f"blobs/{digest.replace(':', '/')}"] = content
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _tar(files: Mapping[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
