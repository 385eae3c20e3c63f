"""Runs a pod of a manifest on a node, as its kubelet would: the same calls of the CRI, with the same rights."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gateway_agent.lease_daemon.process import PRIORITY

from ..namespace import REPOSITORY
from ..waiting import until
from .containerd import IMAGE, Containerd, stubs

READONLY = ("/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
MASKED = (
    "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
    "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
"""Paths that an unprivileged container sees read-only, or not at all (``procMount: Default``)."""
CONTENT = {
    **{f"/{name}": f"/usr/{name}" for name in ("bin", "lib", "lib64", "sbin")},
    "/usr": "/usr",
    str(REPOSITORY): str(REPOSITORY),
}
"""Directories of this machine, read-only, in place of an image with the programs and the environment."""
PATH = f"{REPOSITORY / '.venv' / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"
BUILT = "localhost/egress-gateway:latest"
"""Name that podman gives to an image that it has built."""
RT_GROUPS = Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us")
"""File of kernels with CONFIG_RT_GROUP_SCHED and cgroups v1. There a new cgroup has no real-time budget: a process
that asks for real-time priority is refused.
"""
RT_ALL, RT_EACH = 700_000, 80_000
"""Real-time budgets, microseconds of each second."""
Spec = Mapping[str, Any]


class KubeletPod:
    """``spec``: of the pod. ``volumes``: by name what the node has for it. ``more``: arguments of a container.

    ``archive``: of the image; None: :data:`CONTENT` stands for it. ``real_time``: containers that are real-time on the
    kernels of distributions; on one with :data:`RT_GROUPS` they are made so when they run.
    """

    def __init__(
        self,
        containerd: Containerd,
        node: str,
        spec: Spec,
        volumes: Mapping[str, Path],
        more: Mapping[str, Sequence[str]],
        archive: Path | None = None,
        real_time: Collection[str] = (),
    ) -> None:
        self._real_time = real_time
        self._archive = archive
        self._containerd = containerd
        self._node = node
        self._spec = spec
        self._volumes = volumes
        self._more = more
        self._attempts = 0
        self._sandbox = ""
        self._config: Any = None
        self._running: dict[str, str] = {}

    def start(self) -> None:
        """Start the sandbox, then the init containers one after another, then all others."""
        messages, _ = stubs()
        assert self._spec["hostNetwork"], "its network is the node's"
        if self._archive is not None and not self._attempts:
            self._containerd.load(self._archive)
        self._attempts += 1
        self._config = messages.PodSandboxConfig(
            metadata=messages.PodSandboxMetadata(
                name=f"agent-{self._node}", uid=f"uid-{self._attempts}", namespace="egress-gateway"
            ),
            log_directory=str(self._containerd.directory),
            linux=messages.LinuxPodSandboxConfig(
                security_context=messages.LinuxSandboxSecurityContext(
                    namespace_options=self._namespaces(), seccomp=self._seccomp()
                )
            ),
        )
        request = messages.RunPodSandboxRequest(config=self._config)
        self._sandbox = self._containerd.service.RunPodSandbox(request, timeout=60).pod_sandbox_id
        for container in self._spec["initContainers"]:
            self._create(container)
            name = container["name"]
            until(lambda n=name: self._status(n).status.state == messages.CONTAINER_EXITED, name)  # type: ignore[misc]
            if self._status(name).status.exit_code:
                raise RuntimeError(f"{name} has failed: {self.log(name)}")
        for container in self._spec["containers"]:
            self._create(container)

    def stop(self) -> None:
        """All containers hear SIGTERM at once; what still runs after the grace period hears SIGKILL."""
        messages, _ = stubs()
        names = [container["name"] for container in self._spec["containers"]]
        grace = self._spec["terminationGracePeriodSeconds"]

        def stop(name: str) -> None:
            request = messages.StopContainerRequest(container_id=self._running[name], timeout=grace)
            self._containerd.service.StopContainer(request, timeout=grace + 10)

        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(stop, names))
        self._containerd.stop(self._sandbox)
        self._running.clear()

    def restart(self, name: str, number: int = signal.SIGKILL) -> None:
        """End the first process of a container with a signal; the kubelet starts the container again."""
        messages, _ = stubs()
        signalled = self.pid(name)
        self._containerd.machine.run("kill", f"-{int(number)}", str(signalled))
        until(lambda: self._status(name).status.state == messages.CONTAINER_EXITED, f"{name} has ended")
        self._create(next(c for c in self._spec["containers"] if c["name"] == name))

    def pid(self, name: str) -> int:
        """Return the first process of a container, as the node numbers it."""
        return int(json.loads(self._status(name).info["info"])["pid"])

    def log(self, name: str) -> str:
        """Return the output of a container so far."""
        found = sorted(self._containerd.directory.glob(f"{name}.*.log"))
        return "".join(path.read_text() for path in found)

    def _status(self, name: str) -> Any:
        messages, _ = stubs()
        request = messages.ContainerStatusRequest(container_id=self._running[name], verbose=True)
        return self._containerd.service.ContainerStatus(request, timeout=10)

    def _create(self, container: Spec) -> None:
        messages, _ = stubs()
        self._attempts += 1
        name = container["name"]
        config = messages.ContainerConfig(
            metadata=messages.ContainerMetadata(name=name, attempt=self._attempts),
            image=messages.ImageSpec(image=BUILT if self._archive else IMAGE),
            command=[*container["command"], *self._more.get(name, ())],
            envs=[*map(self._variable, container.get("env", ()))],
            mounts=[*map(self._mount, container.get("volumeMounts", ()))],
            log_path=f"{name}.{self._attempts}.log",
            linux=messages.LinuxContainerConfig(security_context=self._security(container)),
        )
        if self._archive is None:
            config.envs.append(messages.KeyValue(key="PATH", value=PATH))
            config.mounts.extend(
                messages.Mount(container_path=at, host_path=of, readonly=True) for at, of in CONTENT.items()
            )
        service = self._containerd.service
        request = messages.CreateContainerRequest(
            pod_sandbox_id=self._sandbox, config=config, sandbox_config=self._config
        )
        self._running[name] = service.CreateContainer(request, timeout=30).container_id
        service.StartContainer(messages.StartContainerRequest(container_id=self._running[name]), timeout=30)
        if name in self._real_time and RT_GROUPS.exists():
            _grant_real_time(self._running[name], self.pid(name))

    def _security(self, container: Spec) -> Any:
        messages, _ = stubs()
        context = container["securityContext"]
        capabilities = context["capabilities"]
        return messages.LinuxContainerSecurityContext(
            capabilities=messages.Capability(
                add_capabilities=capabilities.get("add", ()), drop_capabilities=capabilities["drop"]
            ),
            privileged=context.get("privileged", False),
            namespace_options=self._namespaces(),
            readonly_rootfs=context["readOnlyRootFilesystem"],
            no_new_privs=not context["allowPrivilegeEscalation"],
            masked_paths=MASKED,
            readonly_paths=READONLY,
            seccomp=self._seccomp(),
        )

    def _namespaces(self) -> Any:
        messages, _ = stubs()
        return messages.NamespaceOption(network=messages.NODE, pid=messages.CONTAINER, ipc=messages.POD)

    def _seccomp(self) -> Any:
        messages, _ = stubs()
        kind = self._spec["securityContext"]["seccompProfile"]["type"]
        return messages.SecurityProfile(profile_type=messages.SecurityProfile.ProfileType.Value(kind))

    def _variable(self, variable: Spec) -> Any:
        messages, _ = stubs()
        value = variable.get("value")
        if value is None:
            assert variable["valueFrom"] == {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}
            value = self._node
        return messages.KeyValue(key=variable["name"], value=value)

    def _mount(self, mount: Spec) -> Any:
        messages, _ = stubs()
        path = self._volumes[mount["name"]]
        if "subPath" in mount:
            path = path / mount["subPath"]
        propagation = {"HostToContainer": messages.PROPAGATION_HOST_TO_CONTAINER}
        return messages.Mount(
            container_path=mount["mountPath"],
            host_path=str(path),
            readonly=mount.get("readOnly", False),
            propagation=propagation.get(str(mount.get("mountPropagation")), messages.PROPAGATION_PRIVATE),
        )


def _grant_real_time(container: str, pid: int) -> None:
    [group] = RT_GROUPS.parent.glob(f"**/{container}")
    for directory, budget in ((group.parent, RT_ALL), (group, RT_EACH)):
        (directory / RT_GROUPS.name).write_text(str(budget))
    os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(PRIORITY))
