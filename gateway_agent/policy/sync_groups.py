"""Connection tables in sync: who syncs with whom, what ``conntrackd`` is told, and what its counters say.

One ``conntrackd`` on each egress node sends what changes in its kernel's connection table to all others at once,
and puts what it hears straight into its own kernel. It sends by multicast into a VXLAN device that copies each
frame to every partner: a process for each partner would hear what its brothers put into the kernel and send it
on, and three nodes would do so for ever.

``conntrackd`` 1.4.7 compares only the source of a question and the source of its answer. So it cannot look for
the virtual address, and neither for a mark. Therefore what is to be synced has a source of its own inside the
tunnels, one for each node (:func:`cni.kernel.ids.inner`), and conntrackd looks for these: it finds the connections
of egress IPs with ``connectionSync``, and no others.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cni.datapath import sync_device
from cni.kernel import ids
from cni.plan import Plan, PlanNode

PATH_BYTES = 107
"""What fits into the address of a unix socket."""

SETTLE_S = 1.5
"""Seconds after the request for the table in which nothing can be said. 20,000 entries take 0.2 s."""
PARTNER_TIMEOUT_S = 5.0
"""Seconds after which a node that hears no partner is taken to be alone. Each speaks once a second at least."""
CATCH_UP_LIMIT_S = 15.0
"""Seconds after which a table that is still growing fast is taken to be busy, not behind."""
BULK_ENTRIES_PER_S = 2000.0
"""Entries a second that say that the whole table is being received."""


@dataclass(frozen=True)
class Syncing:
    """``partners`` can be master of one of this node's synced egress IPs; ``sources``: what synced connections of the
    other nodes have as their source in this node's kernel."""

    partners: tuple[PlanNode, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Files:
    """Absolute paths that belong to one ``conntrackd``."""

    configuration: str
    lock: str
    control: str


@dataclass(frozen=True)
class Counters:
    """What ``conntrackd -s`` says, since its start."""

    entries: int
    """Connections that it takes for this node's own, and gives to others."""
    received: int
    """Entries of others that it put into the kernel, new or changed."""
    failed: int
    """Entries that the kernel did not take."""
    heard: int
    """Datagrams of its partners."""


@dataclass(frozen=True)
class SyncState:
    """One ``conntrackd``, for status."""

    running: bool = False
    in_sync: bool = False
    reason: str = "conntrackd is not running"
    """Why not in sync; empty where it is."""
    counters: Counters = Counters(0, 0, 0, 0)
    overruns: int = 0
    """How often the kernel had more to tell than the socket could hold."""
    restarts: int = 0
    error: str = ""
    """The last complaint, of this process or the one before it."""


def syncing(plan: Plan) -> Syncing | None:
    """Whose tables this node shares, and whose connections; None where it has nobody to share with."""
    partners = sync_device.partners(plan)
    others = [node.address for node in plan.nodes if node.name != plan.node]
    sources = {ids.inner(address, family, synced=True) for address in others for family in (4, 6)}
    return Syncing(partners, tuple(sorted(sources))) if partners else None


def serves(plan: Plan) -> bool:
    """Whether this node is master of a synced egress IP: then its own table is the right one."""
    return any(egress.sync and plan.serves(egress) for egress in plan.egress_ips)


def files(run_dir: str, name: str) -> Files:
    """The paths below ``run_dir``. Raises :class:`ValueError` for a path that conntrackd cannot take."""
    base = f"{run_dir}/conntrackd-{name}"
    if not re.fullmatch(r"/[A-Za-z0-9_./-]+", base) or len(base) + len(".sock") > PATH_BYTES:
        raise ValueError(f"conntrackd takes no path like {base}")
    return Files(f"{base}.conf", f"{base}.lock", f"{base}.sock")


def configuration(
    shared: Syncing,
    paths: Files,
    device: str = ids.SYNC_DEVICE,
    address: str = ids.SYNC_ADDRESS,
    index: int = 0,
) -> str:
    """conntrackd's configuration. ``device`` is the VXLAN device to the partners, ``address`` its own on it.

    ``index``: the kernel's number of the device. conntrackd holds on to that, and hears nothing of one that is made
    anew under the same name: with another number it is another configuration, so that it starts again.
    Raises :class:`ValueError` for what is no address or no name of a device.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,15}", device):
        raise ValueError(f"{device!r} is no device for connection sync")
    interface = ipaddress.IPv4Address(address)
    channel = CHANNEL.format(group=ids.SYNC_GROUP, port=ids.SYNC_PORT, device=device, address=interface)
    sources = "\n".join(f"\t\t\t{_filtered(source)}" for source in shared.sources)
    numbered = f"# {device} is interface {index}\n"
    return numbered + channel + GENERAL.format(lock=paths.lock, control=paths.control, sources=sources)


def _filtered(source: str) -> str:
    address = ipaddress.ip_address(source)
    return f"IPv{address.version}_address {address}"


# No acknowledgements: with more than one partner they would contradict each other.
# Checksum: of the datagrams; the sender leaves it out otherwise.
CHANNEL = """\
Sync {{
	Mode NOTRACK {{
		DisableExternalCache On
	}}
	Multicast {{
		IPv4_address {group}
		Group {port}
		IPv4_interface {address}
		Interface {device}
		SndSocketBuffer 8388608
		RcvSocketBuffer 8388608
		Checksum on
	}}
	Options {{
		TCPWindowTracking Off
	}}
}}
"""
# Its own default is SCHED_RR 99, above the lease keeper. After an overrun it would take the entries of others for
# its own, and tell them to delete theirs when they end here: so the agent decides who reads the kernel anew.
GENERAL = """\
General {{
	Systemd no
	LogFile no
	Syslog no
	LockFile {lock}
	UNIX {{
		Path {control}
	}}
	Scheduler {{
		Type RR
		Priority 1
	}}
	HashSize 65536
	HashLimit 2097152
	NetlinkBufferSize 8388608
	NetlinkBufferSizeMaxGrowth 33554432
	NetlinkOverrunResync no
	Filter From Userspace {{
		Protocol Accept {{
			TCP
			UDP
			SCTP
			DCCP
		}}
		Address Accept {{
{sources}
		}}
	}}
}}
"""


RESEND_COMMANDS = (("-B",),)
"""A master sends all it has, without reading the kernel."""


def commands(serving: bool) -> tuple[tuple[str, ...], ...]:
    """Options for ``conntrackd`` calls, in order, that fit its part: after a start, and when its part changes.

    A master reads the kernel and sends all it has: of a connection that it has from others, it would send only
    what changes, and a copy without a TCP state takes no answer before the next question. A standby forgets what
    it took for its own (else it has the master's entry deleted when its copy ends) and asks for the table.
    """
    return (("-R",), *RESEND_COMMANDS) if serving else (("-f", "internal"), ("-n",))


def counters(statistics: str) -> Counters:
    """Reads what ``conntrackd -s`` printed. Raises :class:`ValueError` where it is something else."""
    own, separator, rest = statistics.partition("external inject:")
    if not separator:
        raise ValueError("no statistics of conntrackd")
    created, updated = _pair("created", rest), _pair("updated", rest)
    return Counters(
        entries=_number(r"current active connections:\s+(\d+)", own),
        received=created[0] + updated[0],
        failed=created[1] + updated[1],
        heard=_number(r"(\d+) Pckts recv", rest),
    )


def overruns(statistics: str) -> int:
    """The overruns in what ``conntrackd -s runtime`` printed. Raises :class:`ValueError`."""
    return _number(r"netlink overrun:\s+(\d+)", statistics)


def _pair(what: str, text: str) -> tuple[int, int]:
    line = rf"connections {what}:\s+(\d+)\s+failed:\s+(\d+)"
    found = re.search(line, text)
    if found is None:
        raise ValueError(f"no connections {what} in the statistics of conntrackd")
    return int(found[1]), int(found[2])


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern} in the statistics of conntrackd")
    return int(found[1])


def behind(since_request: float, rate: float, now: Counters) -> str:
    """Why a standby's table is not in sync; empty where it is.

    ``since_request``: seconds since it asked for the table; ``rate``: entries received a second. The protocol
    has no end of table, so its end is when entries stop coming fast.
    """
    if since_request < SETTLE_S:
        return "has just asked for the connection table"
    if not now.heard and since_request < PARTNER_TIMEOUT_S:
        return "no partner has answered the request for the connection table"
    if rate > BULK_ENTRIES_PER_S and since_request < CATCH_UP_LIMIT_S:
        return f"the connection table is being received: {now.received} entries so far"
    return ""


def complaint(line: str) -> str:
    """What a line of conntrackd's log complains of; empty where it only reports."""
    if "[notice]" in line or not line.strip():
        return ""
    return line.rpartition("] ")[2].strip()


def ready(states: Mapping[str, SyncState]) -> str:
    """Why this node's connection table is not in sync; empty where it is, or where nothing is synced."""
    return next((state.reason or "not in sync" for state in states.values() if not state.in_sync), "")
