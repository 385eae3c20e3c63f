"""Parse ``agent.yaml`` into :class:`AgentConfig`, and report every problem in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import config_values as values
from .manifests import parsing, selectors, typed_objects, yaml_documents
from .manifests.fields import Fields, Report, kind_of
from .manifests.model import Problem

DEFAULT_PATH = Path("/etc/egress-gateway/agent.yaml")
KEYS = (
    "nodeName", "runDir", "store", "clusterCIDRs", "cluster", "lease", "quorum", "tunnel", "mark", "health",
    "metrics", "log", "engines", "guard", "guardExcept", "stateDir", "connectionLog",
)  # fmt: skip
GUARD_EXCEPT = (
    "docker0", "br-*", "podman*", "lxcbr*", "lxdbr*", "incusbr*", "virbr*", "ve-*", "vb-*", "vz-*", "cilium_*",
)  # fmt: skip
"""Bridges of Docker, podman, LXC, LXD, Incus and libvirt, interfaces of systemd-nspawn, and Cilium's own pair of veths,
which belong to no pods.
"""
MAX_NAMESPACE_CHARS = 63
"""Length of a DNS label (RFC 1035)."""


@dataclass(frozen=True)
class FilesStoreConfig:
    """Configuration of the store with ``kind: files``."""

    path: Path = Path("/etc/egress-gateway/manifests")
    push: bool = True
    """True if the node accepts manifests from other nodes, and sends them its own."""


@dataclass(frozen=True)
class KubernetesStoreConfig:
    """Configuration of the store with ``kind: kubernetes``."""

    kubeconfig: Path | None = None
    """Path of a kubeconfig; None: use the service account of the agent's pod."""
    namespace: str = "egress-gateway"
    """Namespace of the agent's own objects."""
    api_group: str = parsing.GROUPS[0]
    """API group of the gateways and policies that the agent follows."""
    taint: bool = False
    """True if the node gets a taint while a pod could start without the plugin."""
    condition: bool = False
    """True if a condition of the node says whether a pod could start without the plugin."""


@dataclass(frozen=True)
class ConnectionLogConfig:
    """Configuration of the log of connections through egress IPs."""

    file: Path = Path("/var/log/egress-gateway/connections.log")
    max_bytes: int = 100 * 10**6
    """Size of one file, bytes."""
    keep: int = 10
    """Number of older files beside the newest."""
    journal: bool = False
    """True if lines are sent to systemd's journal, and to no file."""


@dataclass(frozen=True)
class AgentConfig:
    """Configuration of the agent, with defaults for absent keys."""

    node_name: str
    store: FilesStoreConfig | KubernetesStoreConfig
    run_dir: Path = Path("/run/egress-gateway")
    cluster_cidrs: tuple[str, ...] = ()
    key_file: Path = Path("/etc/egress-gateway/cluster.key")
    accept_key_files: tuple[Path, ...] = ()
    """Files of the keys that are accepted beside the key in ``key_file``, during a key rotation."""
    cluster_port: int = 7947
    heartbeat_ns: int = 50 * 10**6
    duration_ns: int = 250 * 10**6
    """Duration of a lease, nanoseconds."""
    quorum: str = "Strict"
    """``Strict`` or ``AvailabilityFirst``."""
    tunnel_port: int = 4799
    tunnel_mtu: int | None = None
    """MTU of the tunnel devices, bytes; None: the underlay's MTU minus the VXLAN overhead."""
    mark_mask: int = 0x0FF00000
    upstream: tuple[str, ...] = ()
    """IPv4 addresses that must answer probes, or else this node is not ready."""
    health_interval: float = 0.5
    """Seconds between two probes of one address."""
    health_misses: int = 3
    """Number of consecutive unanswered probes after which an address counts as silent."""
    metrics_listen: tuple[str, int] = ("127.0.0.1", 9479)
    """Address and TCP port."""
    metrics_names: tuple[str, ...] = ()
    """Host names, in lower case, that an HTTP request may use beside addresses and the node's name."""
    podman: Path | None = Path("/var/lib/containers/storage")
    """podman's ``graphroot``, which has the labels of its containers; None: podman is not asked."""
    containerd: Path | None = Path("/run/containerd/containerd.sock")
    """Socket of containerd; None: do not ask containerd for labels."""
    guard: bool = False
    """True if packets to the outside from pods that neither the plugin nor the agent knows are dropped."""
    guard_except: tuple[str, ...] = GUARD_EXCEPT
    """Names of bridges and veths that are not guarded; with ``*`` at the end, a prefix of names."""
    state_dir: Path = Path("/var/lib/egress-gateway")
    """Directory of files that must outlive a reboot."""
    connection_log: ConnectionLogConfig | None = None
    """Configuration of the connection log; None: no connection is logged."""
    log_level: str = "info"
    log_format: str = "text"

    @property
    def sets_port(self) -> int:
        """Return the TCP port of the connections between agents; 0: this agent has none."""
        apart = isinstance(self.store, FilesStoreConfig) and not self.store.push
        return 0 if apart else self.cluster_port


class ConfigError(Exception):
    """The configuration is invalid.

    ``problems``: all errors found in it. ``rest``: the configuration with defaults in place of the invalid values;
    None if the document could not be parsed.
    """

    def __init__(self, problems: Sequence[Problem], rest: AgentConfig | None = None) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)
        self.rest = rest


def load(path: Path) -> AgentConfig:
    """Read and parse the configuration file ``path``. Raises :class:`ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        problem = Problem(str(path), "", f"cannot be read: {reason}", "--config names the file")
        raise ConfigError([problem]) from error
    # A kubelet without --hostname-override names its node after the host. In a pod, NODE_NAME gives the node's name.
    return parse(str(path), text, os.environ.get("NODE_NAME") or os.uname().nodename.lower())


def parse(source: str, text: str, host_name: str) -> AgentConfig:
    """Parse the configuration in ``text``. Raises :class:`ConfigError`.

    ``source``: name of the text in problems. ``host_name``: default of ``nodeName``.
    """
    found, problems = yaml_documents.load(source, text)
    value: Any = found[0][1] if len(found) == 1 else None
    if not problems and len(found) > 1:
        problems = [Problem(source, "", "holds several documents; one is read")]
    elif not problems and not isinstance(value, dict):
        what = "is empty" if value is None else f"is {kind_of(value)} instead of a mapping"
        problems = [Problem(source, "", what, "at least store is needed")]
    if problems:
        raise ConfigError(problems)
    report = Report(source)
    config = _config(Fields(value, "", report), host_name)
    if report.problems:
        raise ConfigError(report.problems, config)
    return config


def _config(top: Fields, host_name: str) -> AgentConfig:
    store = _store(top)
    cluster, tunnel = _section(top, "cluster"), _section(top, "tunnel")
    lease, health, logs = _section(top, "lease"), _section(top, "health"), _section(top, "log")
    metrics, engines = _section(top, "metrics"), _section(top, "engines")
    config = AgentConfig(
        node_name=values.node_name(top, host_name),
        store=store,
        run_dir=values.run_dir(top, AgentConfig.run_dir),
        cluster_cidrs=typed_objects.prefix_list(top, "clusterCIDRs"),
        key_file=values.absolute_path(cluster, "keyFile", AgentConfig.key_file),
        accept_key_files=values.accepted_key_files(cluster, AgentConfig.key_file),
        cluster_port=cluster.whole("port", AgentConfig.cluster_port, 1, 65535),
        heartbeat_ns=values.duration_ns(lease, "heartbeat", AgentConfig.heartbeat_ns),
        duration_ns=values.duration_ns(lease, "duration", AgentConfig.duration_ns),
        quorum=top.choice("quorum", ("Strict", "AvailabilityFirst"), AgentConfig.quorum),
        tunnel_port=tunnel.whole("port", AgentConfig.tunnel_port, 1, 65535),
        tunnel_mtu=values.mtu(tunnel),
        mark_mask=values.mark_mask(_section(top, "mark"), AgentConfig.mark_mask),
        upstream=typed_objects.address_list(health, "upstream"),
        health_interval=values.duration_ns(health, "interval", int(AgentConfig.health_interval * 1e9)) / 1e9,
        health_misses=health.whole("misses", AgentConfig.health_misses, 1, 1000),
        metrics_listen=values.listen_address(metrics, AgentConfig.metrics_listen),
        metrics_names=values.host_names(metrics),
        podman=values.engine_path(engines, "podman", AgentConfig.podman),
        containerd=values.engine_path(engines, "containerd", AgentConfig.containerd),
        guard=_guard(top, store),
        guard_except=values.guard_except(top, AgentConfig.guard_except),
        state_dir=values.absolute_path(top, "stateDir", AgentConfig.state_dir),
        connection_log=_connection_log(top),
        log_level=logs.choice("level", ("debug", "info", "warning", "error"), AgentConfig.log_level),
        log_format=logs.choice("format", ("text", "json"), AgentConfig.log_format),
    )
    for section in (cluster, tunnel, lease, health, logs, metrics, engines):
        section.end()
    top.end()
    _check_combination(config, lease, tunnel)
    return config


def _check_combination(config: AgentConfig, lease: Fields, tunnel: Fields) -> None:
    if config.duration_ns < 3 * config.heartbeat_ns:
        hint = "one lost heartbeat must not cost the lease: 50ms and 250ms, or 20ms and 100ms"
        lease.add("duration", "is less than three heartbeats", hint)
    if config.cluster_port == config.tunnel_port:
        tunnel.add("port", f"{config.tunnel_port} is cluster.port too", "both are UDP: they must differ")


def _section(top: Fields, name: str) -> Fields:
    """Return the fields of an optional mapping; empty fields if it is absent."""
    return top.fields(name) or Fields({}, top.at(name), top.report)


def _connection_log(top: Fields) -> ConnectionLogConfig | None:
    """Return the configuration of the connection log; None if the key is absent, or if the log is off."""
    found = top.fields("connectionLog", hint="connectionLog: {file: /var/log/egress-gateway/connections.log}")
    if found is None:
        return None
    default = ConnectionLogConfig()
    if found.choice("target", ("file", "journal"), "file") == "journal":
        configured = ConnectionLogConfig(journal=True)
    else:
        configured = ConnectionLogConfig(
            values.absolute_path(found, "file", default.file),
            values.size_bytes(found, "maxSize", default.max_bytes),
            found.whole("keep", default.keep, 0, 1000),
        )
    found.end()
    return configured


def _store(top: Fields) -> FilesStoreConfig | KubernetesStoreConfig:
    hint = "store: {kind: files, path: /etc/egress-gateway/manifests}"
    store = top.fields("store", required=True, hint=hint)
    if store is None:
        return FilesStoreConfig()
    kind = store.choice("kind", ("files", "kubernetes"), required=True)
    found: FilesStoreConfig | KubernetesStoreConfig
    if kind == "kubernetes":
        found = _kubernetes(store)
    else:
        path = values.absolute_path(store, "path", FilesStoreConfig.path)
        found = FilesStoreConfig(path, values.switch(store, "push", FilesStoreConfig.push))
    if kind:
        store.end()
    return found


def _kubernetes(store: Fields) -> KubernetesStoreConfig:
    default = KubernetesStoreConfig()
    given = store.raw("kubeconfig") is not None
    namespace = store.text("namespace", default.namespace)
    if not selectors.is_name(namespace) or "." in namespace or len(namespace) > MAX_NAMESPACE_CHARS:
        hint = f"lower-case letters, digits and '-', at most {MAX_NAMESPACE_CHARS} characters"
        store.add("namespace", f"{namespace!r} is no name of a namespace", hint)
    return KubernetesStoreConfig(
        values.absolute_path(store, "kubeconfig", Path("/etc/kubernetes/kubelet.conf")) if given else None,
        namespace,
        store.choice("apiGroup", parsing.GROUPS, default.api_group),
        values.switch(store, "notReadyTaint", default.taint),
        values.switch(store, "readyCondition", default.condition),
    )


def _guard(top: Fields, store: FilesStoreConfig | KubernetesStoreConfig) -> bool:
    """Return True if the guard is on. By default it is on with the Kubernetes store, which has each pod."""
    return values.switch(top, "guard", isinstance(store, KubernetesStoreConfig))
