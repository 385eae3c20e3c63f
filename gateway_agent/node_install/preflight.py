"""Check a node before anything is changed on it. Each failed check has a hint with the remedy."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from cni.kernel.ids import DEVICE_PREFIX
from cni.plan import matches

from ..adapters.daemons.standby_daemon import MODULE
from ..adapters.netns_lock import NamespaceLock
from ..adapters.probes import legacy_tables
from ..config import AgentConfig
from ..ctl import doctor
from ..ctl.doctor import Finding
from ..manifests.model import Inventory
from . import firewalls, foreign_marks, legacy_ruleset
from .firewalls import Closing, Outcome, Packet

SYSTEMD = Path("/run/systemd/system")
"""Directory that exists while systemd manages the machine (``sd_booted(3)``)."""
TRIAL = "gateway_agent.node_install.kernel_trial"
TIMEOUT_S = 30.0
"""Seconds for the kernel trial, and for each list of rules."""
RULE_LISTS = (
    ("ip", "rule"),
    ("ip", "-6", "rule"),
    ("iptables-save",),
    ("ip6tables-save",),
    ("iptables-legacy-save",),
    ("nft", "-s", "list", "ruleset"),
)
"""Commands that list rules with marks; missing commands are skipped."""


def examine(config: AgentConfig, inventory: Inventory, replaces: bool) -> tuple[Finding, ...]:
    """Return all findings. ``replaces``: True if this version replaces a service of ours that runs on this node."""
    found = [_service_manager(), *doctor.prerequisites(), _kernel_features(), _forwarding(config, inventory)]
    found += _marks(config.mark_mask)
    found += _firewalls(config, inventory)
    if not replaces:
        found += [_other_agent(), *_ports(config)]
    return tuple(found)


def _service_manager() -> Finding:
    there = SYSTEMD.is_dir()
    hint = "" if there else "the services need systemd; see the manual for machines without it"
    return Finding("systemd", "runs" if there else "does not run here", wrong=not there, hint=hint)


def _kernel_features() -> Finding:
    """Try the kernel in a new network namespace, which ends with the process."""
    what = "kernel features"
    command = ("unshare", "--net", sys.executable, "-I", "-m", TRIAL)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(what, f"not tried: {error}", wrong=True, hint="install util-linux, or try again")
    if done.returncode:
        message = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Finding(what, message, wrong=True, hint=refused_hint(message))
    return Finding(what, "tunnels, rules, routes, fence and addresses, tried in a namespace of its own")


def refused_hint(message: str) -> str:
    """Return what to do if the trial of the kernel has ended with a message.

    nft begins with ``Could not process rule`` if the kernel has refused a rule, and not if nft does not know its words.
    """
    if message.startswith("nft: ") and "Could not process rule" not in message:
        return "install a newer nftables: version 1.0.6 is tested"
    return "load or install the kernel's modules vxlan and nf_tables; on Debian linux-image-amd64 has them"


def _forwarding(config: AgentConfig, inventory: Inventory) -> Finding:
    """Return the finding of the doctor, which is a failure only on egress nodes."""
    found = doctor.forwarding()
    labels = next((node.labels for node in inventory.nodes if node.name == config.node_name), {})
    egress = any(matches(gateway.node_selector, labels) for gateway in inventory.gateways)
    if not found.wrong or egress:
        return found
    return Finding(found.what, f"{found.found}; this is no egress node", judged=False, hint=found.hint)


def _marks(mask: int) -> Iterator[Finding]:
    texts = {}
    for command in RULE_LISTS:
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
            texts[" ".join(command)] = foreign_marks.without_ours(done.stdout)
    used = foreign_marks.in_rules(mask, texts)
    if not used:
        yield Finding("marks", f"{mask:#010x}: no rule of another program uses these bits")
        return
    other = foreign_marks.free_mask(mask, texts)
    hint = (
        f'set mark: {{mask: "{other:#010x}"}} in agent.yaml' if other else "no bits are free: set mark.mask"
    )
    yield Finding("marks", f"{mask:#010x} is used too: {used[0]}", wrong=True, hint=hint)


def _firewalls(config: AgentConfig, inventory: Inventory) -> Iterator[Finding]:
    """Yield findings about packet filters that may drop packets of other nodes, or of pods."""
    try:
        command = ("nft", "-j", "list", "ruleset")
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=True)
        ruleset = [*json.loads(done.stdout)["nftables"]]
    except (OSError, subprocess.SubprocessError, ValueError, LookupError) as error:
        yield Finding("firewalls", f"their rules cannot be read: {error}", judged=False)
        return
    for family, keyword in ((4, "ip"), (6, "ip6")):
        ruleset += legacy_ruleset.ruleset(legacy_tables.listed(family), keyword)
    addresses = [a for node in inventory.nodes if node.name == config.node_name for a in node.addresses]
    families = ("ip6" if addresses and all(":" in each for each in addresses) else "ip", "inet")
    wanted = {
        f"firewalls, UDP port {config.cluster_port}": Packet("input", "udp", config.cluster_port),
        f"firewalls, UDP port {config.tunnel_port}": Packet("input", "udp", config.tunnel_port),
        "firewalls, forwarding": Packet("forward"),
    }
    if config.sets_port:
        wanted[f"firewalls, TCP port {config.sets_port}"] = Packet("input", "tcp", config.sets_port)
    for what, packet in wanted.items():
        yield firewall(what, packet, firewalls.closing(ruleset, packet, families))


def firewall(what: str, packet: Packet, found: tuple[Closing, ...]) -> Finding:
    """Return the finding about a packet that the chains ``found`` may drop."""
    if not found:
        return Finding(what, "no rules are in the way")
    worst = next((each for each in found if each.outcome is Outcome.CLOSED), found[0])
    if packet.port:
        hint = f"let {packet.protocol.upper()} port {packet.port} in from the other nodes"
    else:
        hint = "let packets be forwarded from and to the interfaces egw-*"
    hint += ", in the firewall's own settings"
    if worst.outcome is Outcome.CLOSED:
        return Finding(what, f"the chain {worst.chain} lets nothing through", wrong=True, hint=hint)
    text = f"the chain {worst.chain} drops what no rule accepts; whether one of its rules accepts this is not known"
    return Finding(what, text, judged=False, hint=hint)


def _other_agent() -> Finding:
    try:
        NamespaceLock().close()
    except OSError as error:
        return Finding("other agent", str(error), wrong=True, hint="stop it: it hands over its egress IPs")
    return Finding("other agent", "none runs")


def _ports(config: AgentConfig) -> Iterator[Finding]:
    ours = any(name.startswith(DEVICE_PREFIX) for name in psutil.net_if_addrs())
    udp = {"cluster.port": config.cluster_port} | ({} if ours else {"tunnel.port": config.tunnel_port})
    for key, number in udp.items():
        yield port(f"UDP port {number} ({key})", socket.SOCK_DGRAM, "0.0.0.0", number, key)
    if config.sets_port and not ours:
        what = f"TCP port {config.sets_port} (cluster.port)"
        yield port(what, socket.SOCK_STREAM, "0.0.0.0", config.sets_port, "cluster.port")
    address, number = config.metrics_listen
    yield port(f"TCP port {number} (metrics.listen)", socket.SOCK_STREAM, address, number, "metrics.listen")


def port(what: str, kind: socket.SocketKind, address: str, number: int, key: str) -> Finding:
    """Try to bind a port. Return a finding that names the process on that port. ``key``: option for another number."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as trying:
        if kind == socket.SOCK_STREAM:
            trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trying.bind((address, number))
            return Finding(what, "free")
        except OSError as error:
            message = str(error.strerror)
    holder = _holder(kind, number)
    if holder is None:
        who = "the kernel, as a tunnel of another program does"
    elif MODULE in " ".join(holder.cmdline()):
        return Finding(what, "used by a lease daemon of this gateway, which is replaced")
    else:
        who = f"process {holder.pid} ({holder.name()})"
    return Finding(what, f"{message}: {who}", wrong=True, hint=f"end it, or set {key} in agent.yaml")


def _holder(kind: socket.SocketKind, port: int) -> psutil.Process | None:
    for found in psutil.net_connections("udp" if kind == socket.SOCK_DGRAM else "tcp"):
        if found.laddr and found.laddr.port == port and found.pid and not found.raddr:
            return psutil.Process(found.pid)
    return None
