"""Compose the parts of an agent. Each part gets the parts that it needs as arguments."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from ..config import AgentConfig
from ..manifests.model import Problem
from .inputs.lease_client import LeaseClient
from .inputs.manifest_sets import ManifestSets
from .inputs.objects import KnownObjects
from .inputs.peers import Peers
from .inputs.push import Pushes
from .observer import Observer
from .plan_file import PlanFile
from .pods.adoption import Adoption
from .pods.containers import Containers
from .pods.records import Pods
from .pods.tagging import Tagging
from .ports import Kernel, Ports
from .problems import Problems
from .requests.call_counts import CallCounts
from .requests.cni_add import CniAdd
from .requests.cni_calls import CniCalls
from .requests.control import Control
from .requests.dispatcher import Requests
from .requests.group import Group
from .requests.group_tests import GroupTests
from .requests.pod_tests import PodTests
from .requests.whois import PeerSearch, Whois
from .rounds.answer_checks import AnswerChecks
from .rounds.conntrack_gc import ConntrackCollector
from .rounds.conntrack_sync import ConntrackSync
from .rounds.daemon_config import DaemonConfig
from .rounds.exit_checks import ExitChecks
from .rounds.node_kernel import NodeKernel
from .rounds.path_checks import PathChecks
from .rounds.planning import Planning
from .rounds.pod_guard import PodGuard
from .rounds.pod_rounds import PodRounds
from .rounds.reconciler import Reconciler
from .rounds.round_steps import RoundSteps
from .rounds.worker_checks import WorkerChecks
from .set_ports import Channel
from .state import NodeState


@dataclass(frozen=True)
class Parts:
    """The parts of the service. :attr:`requests` answers the socket; :attr:`observer` takes snapshots."""

    config: AgentConfig
    ports: Ports
    state: NodeState
    plan_file: PlanFile
    objects: KnownObjects
    pods: Pods
    planning: Planning
    containers: Containers
    leases: LeaseClient
    connections: ConntrackCollector
    connection_sync: ConntrackSync
    node_kernel: NodeKernel
    daemon_config: DaemonConfig
    paths: PathChecks
    answers: AnswerChecks
    reconciler: Reconciler
    pod_rounds: PodRounds
    requests: Requests
    observer: Observer
    group: Group
    peers: Peers | None
    """None: this node has no connections with other agents."""
    manifest_sets: ManifestSets | None
    """None: this node neither sends nor accepts sets of manifests."""


@dataclass(frozen=True)
class _Knowledge:
    """The parts that know the store, the pods and the leases; rounds, answers and status share them."""

    plan_file: PlanFile
    state: NodeState
    objects: KnownObjects
    pods: Pods
    tagging: Tagging
    containers: Containers
    leases: LeaseClient
    planning: Planning


@dataclass(frozen=True)
class _Rounds:
    """The parts that reconcile the node with its plan."""

    sync: ConntrackSync
    exits: ExitChecks
    paths: PathChecks
    answers: AnswerChecks
    worker_checks: WorkerChecks
    daemon_config: DaemonConfig
    node_kernel: NodeKernel
    adoption: Adoption
    guard: PodGuard
    connections: ConntrackCollector
    reconciler: Reconciler
    pod_rounds: PodRounds


def build(
    config: AgentConfig,
    ports: Ports,
    notices: tuple[Callable[[], tuple[Problem, ...]], ...] = (),
    unready: Callable[[], str] = lambda: "",
) -> Parts:
    """Return the parts of an agent, with the state that an earlier process has left in the run directory.

    ``notices`` return problems from outside of the agent's parts. ``unready``: see :class:`.observer.Observer`.
    """
    requested = asyncio.Event()
    known = _knowledge(config, ports, requested.set)
    rounds = _rounds(config, ports, known, requested)
    state, pods, planning, containers, leases = (
        known.state, known.pods, known.planning, known.containers, known.leases,
    )  # fmt: skip
    paths, answers, exits, guard = rounds.paths, rounds.answers, rounds.exits, rounds.guard
    peers = Peers(config.node_name, state, ports.channel) if ports.channel else None
    manifest_sets = ManifestSets(peers, ports.manifest_files) if peers and ports.manifest_files else None
    problems = Problems(
        config, state, planning, ports.interfaces, ports.cluster_key, leases, rounds.sync, pods, known.tagging,
        rounds.adoption, containers,
        (paths.problems, answers.problems, exits.problems, rounds.worker_checks.problems,
         lambda: guard.problems, *notices,
         *_notices(ports.channel, manifest_sets)),
    )  # fmt: skip
    counts = CallCounts()
    observer = Observer(
        state, planning, pods, rounds.adoption, containers, leases, problems, unready, counts.histograms
    )
    group = Group(state, observer.snapshot, observer.unready, peers)
    control = _control(config, ports, known, exits, observer, peers, manifest_sets, group)
    requests = _requests(config, ports.kernel, known, rounds, control, counts)
    return Parts(
        config, ports, state, known.plan_file, known.objects, pods, planning, containers, leases,
        rounds.connections, rounds.sync, rounds.node_kernel, rounds.daemon_config, paths, answers, rounds.reconciler,
        rounds.pod_rounds, requests, observer, group, peers, manifest_sets,
    )  # fmt: skip


def _rounds(config: AgentConfig, ports: Ports, known: _Knowledge, requested: asyncio.Event) -> _Rounds:
    """Return the parts that reconcile the node. ``requested``: the event that requests a round."""
    state, pods, tagging, planning, leases = (
        known.state,
        known.pods,
        known.tagging,
        known.planning,
        known.leases,
    )
    kernel, request = ports.kernel, requested.set
    sync = ConntrackSync(config.run_dir, ports.connection_sync(request), request)
    exits = ExitChecks(state, ports.probe, config.upstream, ports.interfaces, ports.threads)
    paths = PathChecks(state, exits, ports.path_probe, ports.threads)
    answers = AnswerChecks(state, ports.path_probe, ports.threads)
    worker_checks = WorkerChecks(pods, ports.interfaces, ports.threads)
    daemon_config = DaemonConfig(state, pods, planning, leases, sync, exits, paths)
    node_kernel, adoption = NodeKernel(kernel, state), Adoption(pods, kernel, state)
    guard = PodGuard(config, state, kernel, node_kernel, planning, adoption, tagging, ports.threads)
    connections = ConntrackCollector(kernel, config.mark_mask)
    steps = RoundSteps(
        config.node_name, config.key_file, state, ports.cluster_key, planning, pods, tagging, adoption, guard,
        known.plan_file, daemon_config, leases, node_kernel, ports.threads, connections, sync, exits, paths,
        worker_checks, request,
    )  # fmt: skip
    reconciler = Reconciler(state, steps.steps(), planning.search, requested, daemon_config.send)
    pod_rounds = PodRounds(state, planning, tagging, daemon_config.send_if_pods_moved)
    return _Rounds(
        sync, exits, paths, answers, worker_checks, daemon_config, node_kernel, adoption, guard, connections,
        reconciler, pod_rounds,
    )  # fmt: skip


def _notices(
    channel: Channel | None, manifest_sets: ManifestSets | None
) -> tuple[Callable[[], tuple[Problem, ...]], ...]:
    """Return the functions that list problems with other nodes."""
    return (
        *((lambda: channel.problems,) if channel else ()),
        *((lambda: manifest_sets.problems,) if manifest_sets else ()),
    )


def _control(
    config: AgentConfig,
    ports: Ports,
    known: _Knowledge,
    exits: ExitChecks,
    observer: Observer,
    peers: Peers | None,
    manifest_sets: ManifestSets | None,
    group: Group,
) -> Control:
    """Return the part that answers ``egressctl``."""
    state = known.state
    search = PeerSearch(peers) if peers else None
    tests = PodTests(observer.snapshot, ports.pod_prober, ports.threads, search.ask if search else None)
    whois = Whois(state, known.pods, ports.connection_search, ports.threads, config.connection_log, search)
    pushes, all_tests = Pushes(manifest_sets), GroupTests(tests, peers)
    return Control(
        config.node_name, state, known.leases, observer.snapshot, exits, all_tests, whois, pushes, group
    )


def _knowledge(config: AgentConfig, ports: Ports, request: Callable[[], None]) -> _Knowledge:
    """Return these parts with the plan and the pods of an earlier process. ``request``: requests a round."""
    plan_file = PlanFile(config.run_dir)
    state = NodeState(plan=plan_file.read())
    pods = Pods(config.run_dir, ports.kernel)
    pods.adopt(state.plan)
    leases = LeaseClient(config, ports.lease_daemon, request)
    return _Knowledge(
        plan_file,
        state,
        KnownObjects(ports.store, state, plan_file, request),
        pods,
        Tagging(ports.kernel, pods, state.plan),
        Containers(ports.engines, pods, state),
        leases,
        Planning(config, state, ports.interfaces, ports.kernel, ports.threads, leases, pods),
    )


def _requests(
    config: AgentConfig,
    kernel: Kernel,
    known: _Knowledge,
    rounds: _Rounds,
    control: Control,
    counts: CallCounts,
) -> Requests:
    """Return the part that answers the plugin and ``egressctl``."""
    state, pods, tagging = known.state, known.pods, known.tagging
    add = CniAdd(
        state,
        kernel,
        known.objects,
        known.planning,
        pods,
        tagging,
        known.containers,
        rounds.reconciler,
        rounds.pod_rounds,
    )
    return Requests(
        CniCalls(config.run_dir, state, kernel, pods, tagging, rounds.reconciler, add, counts), control
    )
