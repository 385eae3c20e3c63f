"""Decide about connection sync: partners, configuration of ``conntrackd``, and meaning of its counters.

One ``conntrackd`` on each egress node sends changes of its kernel's connection table to all partners, and injects the
entries it receives directly into its own kernel. It sends by multicast into a VXLAN device that copies each frame to
every partner. One process for each partner would not work: each process would see the entries that the others inject
and send them on, so three nodes would repeat that for ever.

``conntrackd`` 1.4.7 filters only by the source of the original and of the reply direction. So it can filter neither by
virtual address nor by mark. Therefore synced connections have a source of their own inside the tunnels, one for each
node (:func:`cni.kernel.ids.inner`). conntrackd filters by these sources, which are exactly the connections of egress
IPs with ``connectionSync``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cni.datapath import sync_device
from cni.kernel import ids
from cni.plan import Plan, PlanNode

from ..kept_results import Kept

MAX_SOCKET_PATH_BYTES = 107
"""Length of a unix socket's path (``sun_path`` without its final zero)."""

SETTLE_S = 1.5
"""Seconds after the request for the table in which it counts as not in sync. 20,000 entries take 0.2 s."""
PARTNER_TIMEOUT_S = 5.0
"""Seconds without a datagram after which a node counts as alone. Each partner sends at least once a second."""
MAX_CATCH_UP_S = 15.0
"""Seconds after which a fast growing table counts as busy, not as behind."""
BULK_ENTRIES_PER_S = 2000.0
"""Rate of received entries above which the node counts as receiving the whole table."""


@dataclass(frozen=True)
class Syncing:
    """Partners and filter of this node's connection sync.

    ``partners``: nodes that can be master of one of this node's synced egress IPs. ``sources``: source addresses that
    synced connections of other nodes have in this node's kernel.
    """

    partners: tuple[PlanNode, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Files:
    """Absolute paths of the files of one ``conntrackd``."""

    configuration: str
    lock: str
    control: str


@dataclass(frozen=True)
class Counters:
    """Counters of ``conntrackd -s`` since its start."""

    entries: int
    """Connections in its internal cache: this node's own, which it sends to partners."""
    received: int
    """Entries of partners that it injected into the kernel, new or changed."""
    failed: int
    """Entries that the kernel refused."""
    packets: int
    """Datagrams received from partners."""


@dataclass(frozen=True)
class SyncState:
    """State of one ``conntrackd``, for status."""

    running: bool = False
    in_sync: bool = False
    reason: str = "conntrackd is not running"
    """Reason why the table is not in sync; empty if it is."""
    counters: Counters = Counters(0, 0, 0, 0)
    overruns: int = 0
    """Overruns of its netlink socket: events of the kernel were lost."""
    restarts: int = 0
    error: str = ""
    """Last error message of this process or of its predecessor."""


@Kept
def syncing(plan: Plan) -> Syncing | None:
    """Return partners and filter of this node's connection sync; None if it has no partner."""
    partners = sync_device.partners(plan)
    if not partners:
        return None
    others = [node.address for node in plan.nodes if node.name != plan.node]
    sources = {ids.inner(address, family, synced=True) for address in others for family in (4, 6)}
    return Syncing(partners, tuple(sorted(sources)))


def serves(plan: Plan) -> bool:
    """Return True if this node is master of a synced egress IP: then its own table is authoritative."""
    return any(egress.sync and plan.serves(egress) for egress in plan.egress_ips)


def files(run_dir: str, name: str) -> Files:
    """Return the paths below ``run_dir``. Raises :class:`ValueError` if conntrackd would not accept them."""
    base = f"{run_dir}/conntrackd-{name}"
    if not re.fullmatch(r"/[A-Za-z0-9_./-]+", base) or len(base) + len(".sock") > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"conntrackd accepts no path like {base}")
    return Files(f"{base}.conf", f"{base}.lock", f"{base}.sock")


def configuration(
    shared: Syncing,
    paths: Files,
    device: str = ids.SYNC_DEVICE,
    address: str = ids.SYNC_ADDRESS,
    index: int = 0,
) -> str:
    """Return the text of conntrackd's configuration.

    ``device``: VXLAN device to the partners. ``address``: this node's IPv4 address on it. ``index``: the kernel's
    number of the device. conntrackd stays bound to that number and receives nothing if the device is recreated under
    the same name; the number is part of the text, so that a new one restarts conntrackd.
    Raises :class:`ValueError` for an invalid address or device name.
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


# NOTRACK: no acknowledgements, which would contradict each other with more than one partner.
# Checksum: without it, the sender leaves out the checksum of the datagrams.
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
# Scheduler: conntrackd's default is SCHED_RR 99, above the lease daemon. NetlinkOverrunResync: after an overrun
# conntrackd would take the partners' entries for its own, and make partners delete their entries when these end here.
# So the agent decides which node reads the kernel's table again.
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
"""Options of the calls that make a master send its whole internal cache, without reading the kernel."""


def commands(serving: bool) -> tuple[tuple[str, ...], ...]:
    """Return the options of the ``conntrackd`` calls, in order, after a start and after a change of role.

    A master reads the kernel's table and sends all of it: of a connection received from a partner it would otherwise
    send only changes, and a copy without a TCP state accepts no answer before the next packet of the pod. A standby
    flushes its internal cache (else it would have the master's entry deleted when its copy ends) and requests the
    table.
    """
    return (("-R",), *RESEND_COMMANDS) if serving else (("-f", "internal"), ("-n",))


def counters(statistics: str) -> Counters:
    """Parse the output of ``conntrackd -s``. Raises :class:`ValueError`."""
    own, separator, rest = statistics.partition("external inject:")
    if not separator:
        raise ValueError("no statistics of conntrackd")
    created, updated = _pair("created", rest), _pair("updated", rest)
    return Counters(
        entries=_number(r"current active connections:\s+(\d+)", own),
        received=created[0] + updated[0],
        failed=created[1] + updated[1],
        packets=_number(r"(\d+) Pckts recv", rest),
    )


def overruns(statistics: str) -> int:
    """Return the number of overruns in the output of ``conntrackd -s runtime``. Raises :class:`ValueError`."""
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
    """Return the reason why a standby's table is not in sync; empty if it is.

    ``since_request``: seconds since the request for the table. ``rate``: received entries per second. The protocol
    does not mark the end of a table, so it is assumed when the rate drops.
    """
    if since_request < SETTLE_S:
        return "has just asked for the connection table"
    if not now.packets and since_request < PARTNER_TIMEOUT_S:
        return "no partner has answered the request for the connection table"
    if rate > BULK_ENTRIES_PER_S and since_request < MAX_CATCH_UP_S:
        return f"the connection table is being received: {now.received} entries so far"
    return ""


def complaint(line: str) -> str:
    """Return the error message in a line of conntrackd's log; empty for a notice."""
    if "[notice]" in line or not line.strip():
        return ""
    return line.rpartition("] ")[2].strip()


def ready(states: Mapping[str, SyncState]) -> str:
    """Return the reason why this node's connection table is not in sync; empty if it is, or if nothing is synced."""
    return next((state.reason or "not in sync" for state in states.values() if not state.in_sync), "")
