"""``egress-gateway-agent``: reads its configuration, puts the parts together, serves until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path

from cni.version import VERSION

from . import log
from .adapters.agent_socket import RequestServer
from .adapters.files_store import FilesStore
from .adapters.kernel import Kernel
from .adapters.lease_client_ipc import KeeperClient
from .adapters.netns_lock import NamespaceLock
from .agent.cni_calls import CniCalls
from .agent.observed import ObservedAgent, view
from .config import AgentConfig, ConfigError, FilesStoreConfig, load
from .manifests.model import Problem
from .manifests.store import Store
from .show.snapshot import NodeSnapshot

DEFAULT_CONFIG = "/etc/egress-gateway/agent.yaml"
logger = logging.getLogger(__name__)


def main() -> None:
    """Entry point. Exit codes: 0 stopped as asked, 1 failed, 2 wrong configuration or call."""
    parser = argparse.ArgumentParser(
        prog="egress-gateway-agent",
        description="Keeps this node's part of the egress gateways. SIGTERM hands everything over and stops; "
        "SIGHUP restarts in place and moves nothing.",
    )
    parser.add_argument(
        "--config", type=Path, default=Path(DEFAULT_CONFIG), metavar="FILE", help=f"default {DEFAULT_CONFIG}"
    )
    parser.add_argument(
        "--await-keeper",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="somebody else runs the lease keeper: start one only where it does not come in time",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.add_argument("--check", action="store_true", help="validate the configuration and exit")
    arguments = parser.parse_args()
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
        # Another agent of the same run directory is named by that.
        with _locked(config.run_dir / "agent.lock"):
            lock = NamespaceLock()
        for problem in lock.problems:
            logger.warning("%s", problem)
        restart = asyncio.run(serve(config, arguments.config, arguments.await_keeper, lock.problems))
    except OSError as error:
        logger.error("%s", error)
        sys.exit(1)
    if restart:
        lock.hand_over()
        _execute_again()


def _execute_again() -> None:
    """Start this program again in place, as it was started: the kernel names a process after the executed file."""
    if os.access(sys.argv[0], os.X_OK):
        os.execv(sys.argv[0], sys.argv)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


async def serve(
    config: AgentConfig, source: Path, patience: float = 0.0, notices: tuple[Problem, ...] = ()
) -> bool:
    """Runs the agent until a signal. True where it should start again in place, by the file ``source``.

    ``patience``: see :class:`KeeperClient`. ``notices``: problems of the start, shown as long as the agent runs.

    Raises OSError where another agent runs on the same run directory, or the directory cannot be had.
    """
    config.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(config.run_dir / "agent.lock"):
        store, reporter = _store(config)
        agent = ObservedAgent(config, store, Kernel(), KeeperClient(config.run_dir, patience), notices)
        agent.pods.adopt(agent.plan)
        server = RequestServer(config.run_dir / "agent.sock", CniCalls(agent).handle, agent.write_again)
        agent.socket = server
        return await _until_signal(agent, server, source, reporter(partial(view, agent)))


def _store(
    config: AgentConfig,
) -> tuple[Store, Callable[[Callable[[], NodeSnapshot | None]], Coroutine[None, None, None]]]:
    """The store, and what tells it of the agent, which is given a view of it."""
    if isinstance(config.store, FilesStoreConfig):
        return FilesStore(config.store.path, config.run_dir / "last-good"), lambda _: _nothing()
    # Imported only here: it is a third of the memory of an agent that needs it.
    from .kubernetes.client import Api
    from .kubernetes.cluster_store import ClusterStore
    from .kubernetes.objects import resources
    from .kubernetes.reporter import ClusterReport

    api = Api(config.store.kubeconfig)
    watched = resources(config.store.api_group, config.node_name, config.store.namespace)
    store = ClusterStore(api, watched, config.run_dir / "last-known.json")
    return store, lambda seen: ClusterReport(api, store, seen).run()


async def _nothing() -> None:
    """Nobody is told anything. Ends with its task."""
    await asyncio.Event().wait()


async def _until_signal(
    agent: ObservedAgent, server: RequestServer, source: Path, reporting: Coroutine[None, None, None]
) -> bool:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    heard: list[signal.Signals] = []

    def hear(number: signal.Signals) -> None:
        if number == signal.SIGHUP and not _can_start(source):
            return
        heard.append(number)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, hear, number)
    agent.kernel.watch(agent.kernel_changed)
    agent.flows.watch()
    parts = (
        agent.follow_store(), agent.follow_keeper(), agent.follow_containers(), agent.run(), agent.flows.run(),
        agent.count_changes(), agent.metrics.run(), reporting, server.keep(),
    )  # fmt: skip
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(part) for part in parts]
    waiting: asyncio.Task[object] = asyncio.create_task(told.wait())
    await server.start()
    logger.info("node %s: serving on %s", agent.config.node_name, server.path)
    # A part that ends by itself has failed: the service ends with it, and whoever runs it starts it anew.
    await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    restart = heard[:1] == [signal.SIGHUP]
    if heard and not restart:
        logger.info("stopping: handing over")
        await agent.stop()
    await server.stop()
    for task in (waiting, *tasks):
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    return restart


def _can_start(source: Path) -> bool:
    """Whether a new process would take its configuration: else this one goes on."""
    try:
        load(source)
    except ConfigError as error:
        for problem in error.problems:
            logger.error("no restart: %s", problem)
        return False
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the run directory: two agents on one node would undo each other's work."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OSError(f"another agent runs: it holds {path}") from None
    try:
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
