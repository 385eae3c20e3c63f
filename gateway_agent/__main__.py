"""Run ``egress-gateway-agent``: read the configuration, create the adapters, serve until a signal.

No other module of the agent names a concrete adapter.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cni import contract
from cni.version import VERSION

from . import log
from .adapters import counters
from .adapters.daemons.connection_log import ConnectionLog
from .adapters.daemons.conntrackd import ConnectionSync
from .adapters.daemons.lease_client_ipc import LeaseDaemonClient
from .adapters.files import set_files
from .adapters.files.cluster_key import KeyFiles
from .adapters.files.files_store import FilesStore, NoReport
from .adapters.files.key_files import KeyFiles as Keys
from .adapters.kernel.kernel_thread import Kernel, keep_sockets
from .adapters.kernel.node_interfaces import NodeInterfaces
from .adapters.kernel.open_connections import ConnectionSearch
from .adapters.netns_lock import NamespaceLock, locked
from .adapters.probes.icmp_probe import UpstreamProbe
from .adapters.probes.neighbour_probe import NeighbourProbe
from .adapters.probes.path_probe import PathProbe
from .adapters.probes.pod_probe import PodProber
from .adapters.servers.agent_socket import RequestServer
from .adapters.servers.metrics_http import MetricsServer
from .adapters.servers.set_channel import SetChannel
from .adapters.service_manager import feed_watchdog
from .adapters.worker_threads import WorkerThreads
from .agent.observer import Observer
from .agent.parts import Parts, build
from .agent.ports import Ports, Probe, ProbeTarget
from .agent.service import Agent
from .agent.set_ports import Channel
from .cni_install import plugin_report
from .config import AgentConfig, ConfigError, FilesStoreConfig, load
from .container_engines.stores import Engines
from .manifests.model import Problem
from .manifests.store import Reporter, Store
from .running import Service
from .show.metrics.families import Observation

DEFAULT_CONFIG = "/etc/egress-gateway/agent.yaml"
logger = logging.getLogger(__name__)


def main() -> None:
    """Run the program. Exit codes: 0 stopped by a signal, 1 failed, 2 wrong configuration or command line."""
    arguments = _parser().parse_args()
    try:
        config = load(arguments.config)
    except ConfigError as error:
        print("\n".join(str(problem) for problem in error.problems), file=sys.stderr)
        sys.exit(2)
    if arguments.check:
        print(f"{arguments.config}: valid")
        return
    log.set_up(config.log_level, config.log_format)
    try:
        config.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The error names another agent of the same run directory.
        with locked(config.run_dir / "agent.lock"):
            lock = NamespaceLock()
        for problem in lock.problems:
            logger.warning("%s", problem)
        keep_sockets()
        restart = asyncio.run(serve(config, arguments.config, arguments.await_keeper, lock.problems))
    except OSError as error:
        logger.error("%s", error)
        sys.exit(1)
    if restart:
        lock.hand_over()
        _execute_again()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="egress-gateway-agent",
        description="Runs this node's part of the egress gateways. SIGTERM hands every egress IP over and stops; "
        "SIGHUP restarts in place and moves none.",
    )
    parser.add_argument(
        "--config", type=Path, default=Path(DEFAULT_CONFIG), metavar="FILE", help=f"default {DEFAULT_CONFIG}"
    )
    parser.add_argument(
        "--await-keeper",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="another process runs the lease daemon: start one only if none comes in time, at first or after a loss",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.add_argument("--check", action="store_true", help="validate the configuration and exit")
    return parser


def _execute_again() -> None:
    """Execute this program again in place, by the same file: the kernel names a process after that file."""
    if os.access(sys.argv[0], os.X_OK):
        os.execv(sys.argv[0], sys.argv)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


async def serve(
    config: AgentConfig, source: Path, await_daemon_s: float = 0.0, notices: tuple[Problem, ...] = ()
) -> bool:
    """Run the agent until a signal. Return True if it should start again in place, by the file ``source``.

    ``await_daemon_s``: see :class:`LeaseDaemonClient`. ``notices``: problems at the start, listed in status while the
    agent runs.

    Raises OSError if another agent runs on the same run directory, or if the directory cannot be made.
    """
    config.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(config.run_dir / "agent.lock"):
        store, report = _store(config)

        async def answer(request: bytes) -> bytes:
            return await parts.requests.handle(request)

        server = RequestServer(config.run_dir / "agent.sock", answer, lambda: agent.write_again())
        connections = ConnectionLog(config)
        metrics = _metrics(config, connections, store, lambda: parts)
        parts = build(
            config,
            ports(config, store, await_daemon_s),
            (
                lambda: metrics.problems,
                lambda: connections.problems,
                partial(plugin_report.problems, config.run_dir),
                lambda: notices,
            ),
            partial(_unreachable, config.run_dir, server),
        )
        agent = Agent(parts)
        reporter = report(parts.observer)
        others = (metrics.run(), connections.run(), reporter.run(), server.keep(), feed_watchdog())
        return await Service(agent, server, others, reporter.leave).until_signal(partial(_can_start, source))


def _metrics(
    config: AgentConfig, connections: ConnectionLog, store: Store, parts: Callable[[], Parts]
) -> MetricsServer:
    """Return the server of metrics and the page. ``parts``: the parts of the agent, once it runs."""

    def observed() -> Observation:
        log, errors = connections.report, store.errors()
        return replace(parts().observer.observe(), connection_log=log, api_errors=errors)

    def group() -> dict[str, Any] | None:
        return parts().group.latest()

    names = (config.node_name, *config.metrics_names)
    return MetricsServer(config.metrics_listen, observed, names=names, group=group, kernel=counters.read)


def ports(config: AgentConfig, store: Store, await_daemon_s: float = 0.0) -> Ports:
    """Return the adapters of an agent."""
    return Ports(
        store=store,
        kernel=Kernel(),
        interfaces=NodeInterfaces(config.run_dir),
        lease_daemon=LeaseDaemonClient(config.run_dir, await_daemon_s),
        cluster_key=KeyFiles(config.key_file, config.accept_key_files),
        engines=Engines(config.podman, config.containerd),
        threads=WorkerThreads(),
        path_probe=PathProbe(config.tunnel_port),
        pod_prober=PodProber(),
        connection_search=ConnectionSearch(),
        probe=partial(_probe, config),
        connection_sync=partial(ConnectionSync, config.run_dir),
        channel=_channel(config),
        manifest_files=set_files.opened(config, store),
    )


def _channel(config: AgentConfig) -> Channel | None:
    """Return the channel to the agents of other nodes; None if there is none."""
    if not config.sets_port:
        return None
    ring = partial(Keys().followed, str(config.key_file), [str(path) for path in config.accept_key_files])
    return SetChannel(config.node_name, config.sets_port, ring)


def _probe(config: AgentConfig, target: ProbeTarget, changed: Callable[[], None]) -> Probe:
    """Return the probe of a target."""
    interval, misses = config.health_interval, config.health_misses
    if target.on_link:
        return NeighbourProbe(target.interface, target.addresses, interval, misses, changed)
    return UpstreamProbe(
        target.interface, target.addresses, interval, misses, changed, target.mark, target.source
    )


def _unreachable(run_dir: Path, server: RequestServer) -> str:
    """Return why no CNI call reaches the agent; empty if calls do."""
    if not server.reachable():
        return f"{server.path} is gone: no CNI call reaches the agent"
    unusable = plugin_report.problems(run_dir)
    return f"the plugin is not used: {unusable[0]}" if unusable else ""


def _store(config: AgentConfig) -> tuple[Store, Callable[[Observer], Reporter]]:
    """Return the store, and a function that creates its reporter."""
    if isinstance(config.store, FilesStoreConfig):
        return FilesStore(config.store.path, config.run_dir / "last-good"), lambda _: NoReport()
    # Imported only here: the module takes a third of the memory of an agent that uses it.
    from .kubernetes.client import Api
    from .kubernetes.cluster_store import ClusterStore
    from .kubernetes.last_known import LAST_KNOWN
    from .kubernetes.node_marker import NodeMarker
    from .kubernetes.objects import resources
    from .kubernetes.reporter import ClusterReport

    api = Api(config.store.kubeconfig)
    watched = resources(config.store.api_group, config.node_name, config.store.namespace)
    store = ClusterStore(api, watched, config.run_dir / LAST_KNOWN)
    taint, condition = config.store.taint, config.store.condition
    # A boot empties the run directory.
    first = not (config.run_dir / contract.PLAN).exists()

    def reporter(observer: Observer) -> Reporter:
        unsafe = partial(_unsafe, config.run_dir, observer)
        marker = NodeMarker(api, store, config.node_name, unsafe, taint, condition, first)
        return ClusterReport(api, store, observer.snapshot, marker)

    return store, reporter


def _unsafe(run_dir: Path, observer: Observer) -> str:
    """Return why a pod could now start on this node without the plugin; empty if none can."""
    no_entry = "" if plugin_report.read(run_dir).chained else "the plugin is not in the CNI configuration"
    return observer.unready() or no_entry or observer.unguarded()


def _can_start(source: Path) -> bool:
    """Return True if a new process would accept its configuration; otherwise this process continues."""
    try:
        load(source)
    except ConfigError as error:
        for problem in error.problems:
            logger.error("no restart: %s", problem)
        return False
    return True


if __name__ == "__main__":
    main()
