"""What is ours in this node's kernel, and what may be wrong with the node. Needs no agent."""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from cni.kernel import ids, netlink, nft
from cni.kernel.errors import KernelError

from ..config import AgentConfig
from ..shell import plugin_report
from ..shell.addresses import Addresses

PROGRAMS = {"nft": "nftables", "conntrack": "conntrack"}
OPTIONAL = {"conntrackd": "conntrackd: only connectionSync needs it"}
TABLES = (
    ("inet", ids.NFT_NODE_INET),
    ("bridge", ids.NFT_NODE_BRIDGE),
    ("inet", ids.NFT_GATEWAY),
    ("netdev", ids.NFT_FENCE),
)
KERNEL = (5, 18)
"""Addresses have a protocol since then, and netdev tables an egress hook since 5.16."""


@dataclass(frozen=True)
class Finding:
    what: str
    found: str
    judged: bool = True
    """Whether it can be right or wrong; else it only is there."""
    wrong: bool = False
    hint: str = ""


def examine(config: AgentConfig | None) -> tuple[Finding, ...]:
    """Looks, and changes nothing. ``config``: of the node's agent, where there is one."""
    findings = [_kernel(), *_programs(), _forwarding(), *_ipv6()]
    if config is not None:
        findings += [_key(config.key_file), _socket(config.run_dir / "agent.sock"), *_plugin(config.run_dir)]
    try:
        findings += _ours()
    except KernelError as error:
        findings.append(Finding("kernel objects", error.message, wrong=True, hint=error.hint))
    return tuple(findings)


def _kernel() -> Finding:
    release = Path("/proc/sys/kernel/osrelease").read_text(encoding="ascii").strip()
    version = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    wanted = ".".join(map(str, KERNEL))
    return Finding("kernel", release, wrong=version < KERNEL, hint=f"virtual IPs need {wanted}" * (version < KERNEL))


def _programs() -> Iterator[Finding]:
    for program, package in {**PROGRAMS, **OPTIONAL}.items():
        path = shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        missing = path is None and program in PROGRAMS
        yield Finding(program, path or "not found", wrong=missing, hint="" if path else f"install {package}")


def _forwarding() -> Finding:
    on = Path("/proc/sys/net/ipv4/ip_forward").read_text(encoding="ascii").strip() == "1"
    hint = "" if on else "an egress node needs sysctl -w net.ipv4.ip_forward=1"
    return Finding("net.ipv4.ip_forward", str(int(on)), wrong=not on, hint=hint)


def _ipv6() -> Iterator[Finding]:
    """Not judged: who has no IPv6 pods needs no forwarding of them, and a check of sources is in the way only over IPv6
    without an IPv4 default route. Status says where they are."""
    for name, path in (("net.ipv6.conf.all.forwarding", "ipv6/conf/all/forwarding"),
                       ("net.ipv4.conf.all.rp_filter", "ipv4/conf/all/rp_filter")):  # fmt: skip
        with suppress(OSError):
            yield Finding(name, Path("/proc/sys/net", path).read_text(encoding="ascii").strip(), judged=False)


def _key(path: Path) -> Finding:
    what = "cluster key"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return Finding(what, f"{path}: {error.strerror}", wrong=True, hint="the agent makes one where it is missing")
    open_to_others = bool(mode & 0o077)
    return Finding(what, f"{path}, mode {mode:04o}", wrong=open_to_others, hint="chmod 600" * open_to_others)


def _socket(path: Path) -> Finding:
    there = path.is_socket()
    return Finding("agent", str(path), wrong=not there, hint="" if there else "start egress-gateway-agent")


def _plugin(run_dir: Path) -> Iterator[Finding]:
    """Yield what the installer of the plugin has reported."""
    for problem in plugin_report.read(run_dir):
        yield Finding("plugin", f"{problem.source}: {problem.message}", wrong=True, hint=problem.hint)


def _ours() -> Iterator[Finding]:
    for item in sorted(map(str, netlink.observe())):
        yield Finding("ours", item, judged=False)
    with closing(Addresses()) as addresses:
        for address, interface in addresses.ours():
            yield Finding("ours", f"virtual address {address} on {interface}", judged=False)
    for device, group in sorted(netlink.tagged().items()):
        yield Finding("ours", f"interface {device} has group {group:#x}", judged=False)
    standing = nft.run("list", "tables").splitlines()
    for family, name in TABLES:
        if f"table {family} {name}" in standing:
            yield Finding("ours", f"nftables table {family} {name}", judged=False)
