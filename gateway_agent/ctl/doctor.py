"""List our objects in this node's kernel and check the node's prerequisites. Needs no agent."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from cni.calls import attachments
from cni.kernel import ids, rtnl
from cni.kernel.errors import KernelError
from cni.kernel.netlink import links
from cni.kernel.nftables import nft

from ..adapters.kernel import interfaces
from ..agent.plan_file import PlanFile
from ..cni_install import plugin_report
from ..config import AgentConfig
from ..lease_daemon.kernel.vip_addresses import Addresses
from ..policy import local_addresses
from ..policy.egress_node import path_faults
from . import path_report, runtime_report
from .objects import stored_objects

PROGRAMS = {"nft": "nftables"}
OPTIONAL = {"conntrackd": "conntrackd: only connectionSync needs it"}
TABLES = (
    ("inet", ids.NFT_NODE_INET),
    ("bridge", ids.NFT_NODE_BRIDGE),
    ("inet", ids.NFT_GATEWAY),
    ("netdev", ids.NFT_FENCE),
    ("inet", ids.NFT_TRACE),
    ("bridge", ids.NFT_GUARD),
    ("inet", ids.NFT_GUARD),
)
KERNEL = (5, 18)
"""First Linux version in which addresses have a protocol. Netdev tables have an egress hook since 5.16."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    found: str
    judged: bool = True
    """True if it is a check with a result; False if it only lists an object or value."""
    wrong: bool = False
    hint: str = ""


def examine(config: AgentConfig | None) -> tuple[Finding, ...]:
    """Return all findings. Changes nothing. ``config``: configuration of the node's agent, if there is one."""
    parts: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("kernel", lambda: [_kernel()]), ("programs", _programs), ("forwarding", lambda: [forwarding()]),
        ("ipv6", _ipv6),
    ]  # fmt: skip
    if config is not None:
        key, run_dir = config.key_file, config.run_dir
        parts += [
            ("cluster key", lambda: [_key(key)]), ("agent", lambda: [_socket(run_dir / "agent.sock")]),
            ("plugin", lambda: _plugin(run_dir)), ("container runtime", lambda: _runtime(config.containerd)),
            ("addresses", lambda: _outside(config)),
        ]  # fmt: skip
    if config is not None:
        parts += [("path", lambda: _paths(config.run_dir)), ("answers", lambda: _answers(config.run_dir))]
    parts += [("kernel objects", _objects), ("virtual addresses", _addresses), ("nftables", _tables)]
    return tuple(finding for what, part in parts for finding in _found(what, part))


def _found(what: str, part: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of one part, and the reason if the part fails."""
    try:
        yield from part()
    except PermissionError as error:
        yield _unseen(what, f"not looked at: {error.filename or 'the kernel'}: {error.strerror}")
    except KernelError as error:
        if os.geteuid():
            yield _unseen(what, f"not looked at: {error.message}")
        else:
            yield Finding(what, error.message, wrong=True, hint=error.hint)
    except OSError as error:
        yield Finding(what, f"not looked at: {error}", wrong=True)


def _unseen(what: str, found: str) -> Finding:
    return Finding(what, found, judged=False, hint="run it as root")


def prerequisites() -> Iterator[Finding]:
    """Yield the findings about the kernel's version and the programs of the node."""
    yield _kernel()
    yield from _programs()


def _kernel() -> Finding:
    release = Path("/proc/sys/kernel/osrelease").read_text(encoding="ascii").strip()
    version = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    wanted = ".".join(map(str, KERNEL))
    return Finding(
        "kernel", release, wrong=version < KERNEL, hint=f"virtual IPs need {wanted}" * (version < KERNEL)
    )


def _programs() -> Iterator[Finding]:
    for program, package in {**PROGRAMS, **OPTIONAL}.items():
        path = shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        missing = path is None and program in PROGRAMS
        yield Finding(program, path or "not found", wrong=missing, hint="" if path else f"install {package}")


def forwarding() -> Finding:
    """Return the finding about the forwarding of IPv4, which egress nodes need."""
    on = Path("/proc/sys/net/ipv4/ip_forward").read_text(encoding="ascii").strip() == "1"
    hint = "" if on else "an egress node needs sysctl -w net.ipv4.ip_forward=1"
    return Finding("net.ipv4.ip_forward", str(int(on)), wrong=not on, hint=hint)


def _ipv6() -> Iterator[Finding]:
    """Yield settings without a judgement.

    Forwarding is needed for IPv6 pods only, and the source check matters only over an IPv6 underlay without an IPv4
    default route. Status reports such cases.
    """
    for name, path in (("net.ipv6.conf.all.forwarding", "ipv6/conf/all/forwarding"),
                       ("net.ipv4.conf.all.rp_filter", "ipv4/conf/all/rp_filter")):  # fmt: skip
        with suppress(OSError):
            yield Finding(name, Path("/proc/sys/net", path).read_text(encoding="ascii").strip(), judged=False)


def _key(path: Path) -> Finding:
    what = "cluster key"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except PermissionError:
        raise
    except OSError as error:
        return Finding(
            what, f"{path}: {error.strerror}", wrong=True, hint="copy the key file of another node there"
        )
    open_to_others = bool(mode & 0o077)
    return Finding(what, f"{path}, mode {mode:04o}", wrong=open_to_others, hint="chmod 600" * open_to_others)


def _socket(path: Path) -> Finding:
    there = path.is_socket()
    return Finding("agent", str(path), wrong=not there, hint="" if there else "start egress-gateway-agent")


def _plugin(run_dir: Path) -> Iterator[Finding]:
    """Yield the problems that the installer of the plugin has reported."""
    for problem in plugin_report.problems(run_dir):
        yield Finding("plugin", f"{problem.source}: {problem.message}", wrong=True, hint=problem.hint)


def _runtime(socket: Path | None) -> Iterator[Finding]:
    """Yield whether the container runtime has loaded our entry."""
    if socket is not None and (said := runtime_report.examine(socket)) is not None:
        yield Finding("container runtime", said.found, said.judged, said.wrong, said.hint)


def _outside(config: AgentConfig) -> Iterator[Finding]:
    """Yield this node's addresses that selected pods of any node reach only through their gateway."""
    inventory = stored_objects.inventory(config)
    if not inventory.gateways:
        return
    records, _ = attachments.load_all(config.run_dir)
    pods = {name for record in records for name in record.host_interfaces}
    facts = interfaces.read(inventory.virtual_addresses, pods)
    for interface, address in local_addresses.outside(inventory, config.cluster_cidrs, facts):
        found = f"{address} on {interface}: no Node object and no cluster network has it, so a gateway may get what "
        hint = "name it as ExternalIP of the Node, in clusterCIDRs, or in excludedCIDRs of the policies"
        yield Finding("address", f"{found}selected pods send to it", judged=False, hint=hint)


def _paths(run_dir: Path) -> Iterator[Finding]:
    """Yield the path of packets through this node for each egress IP that it can serve."""
    plan = PlanFile(run_dir).read()
    if plan is None:
        return
    for report in path_report.examine(plan):
        what = f"path of {report.name}"
        if report.untested:
            yield Finding(what, f"not tested: {report.untested}", judged=False)
        elif report.fault:
            yield Finding(what, report.fault, wrong=True)
        elif report.bytes < plan.mtu:
            yield Finding(what, path_faults.too_small(report.egress, report.bytes, plan.mtu), wrong=True)
        else:
            yield Finding(what, f"open to {report.egress.interface}, packets of up to {report.bytes} bytes")


def _answers(run_dir: Path) -> Iterator[Finding]:
    """Yield if answers from outside get into the tunnels of a master, the path in the other direction."""
    plan = PlanFile(run_dir).read()
    if plan is None or not any(plan.serves(egress) for egress in plan.egress_ips):
        return
    counted = path_report.answers()
    if not counted.enough:
        few = f"{counted.came} have come from outside, of {path_faults.MIN_ANSWERS} that a result needs"
        yield Finding("answers", f"not judged: {few}", judged=False, hint="egressctl test")
    elif fault := path_faults.dropped_answers(counted):
        yield Finding("answers", fault, wrong=True)
    else:
        yield Finding("answers", f"{counted.went} of {counted.came} from outside got into a tunnel")


def _objects() -> Iterator[Finding]:
    for item in sorted(map(str, rtnl.observe())):
        yield Finding("ours", item, judged=False)
    for device, group in sorted(links.tagged().items()):
        yield Finding("ours", f"interface {device} has group {group:#x}", judged=False)


def _addresses() -> Iterator[Finding]:
    with closing(Addresses()) as addresses:
        for address, interface in addresses.ours():
            yield Finding("ours", f"virtual address {address} on {interface}", judged=False)


def _tables() -> Iterator[Finding]:
    tables = nft.run("list", "tables").splitlines()
    for family, name in TABLES:
        if f"table {family} {name}" in tables:
            yield Finding("ours", f"nftables table {family} {name}", judged=False)
