"""What programs take for a node's address that look for the first one of an interface."""

from __future__ import annotations

import ipaddress
import json
import sys

from .namespace import Namespace

FIRST = """
import fcntl, socket, struct, sys
ask = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
answer = fcntl.ioctl(ask, 0x8915, struct.pack("16s16x", sys.argv[1].encode()))
print(socket.inet_ntoa(answer[20:24]))
"""


LISTED = """
import ctypes, socket, sys

class Address(ctypes.Structure):
    pass

Address._fields_ = [("next", ctypes.POINTER(Address)), ("name", ctypes.c_char_p), ("flags", ctypes.c_uint),
                    ("address", ctypes.POINTER(ctypes.c_uint8 * 28))]
first = ctypes.POINTER(Address)()
assert ctypes.CDLL(None).getifaddrs(ctypes.byref(first)) == 0
while first:
    entry = first.contents
    if entry.address:
        raw = bytes(entry.address.contents)
        if int.from_bytes(raw[:2], sys.byteorder) == socket.AF_INET6:
            print(entry.name.decode(), socket.inet_ntop(socket.AF_INET6, raw[8:24]))
    first = entry.next
"""


def first_addresses(machine: Namespace, interface: str, family: int = 4) -> dict[str, str]:
    """Return what programs take for the node's address that look for the first one, by how they look."""
    listed = json.loads(machine.run("ip", f"-{family}", "-j", "address", "show", "dev", interface))
    # Also the order of Go's net.Interface.Addrs: both list what the kernel answers to RTM_GETADDR.
    in_order = [entry["local"] for entry in listed[0]["addr_info"]]
    kubelet = next(address for address in in_order if _is_global(address))
    ours = machine.run("hostname", "-I").split()
    found = {
        "ip address": in_order[0],
        "hostname -I": next(address for address in ours if (":" in address) is (family == 6)),
        "kubelet": kubelet,
    }
    if family == 4:
        return found | {"SIOCGIFADDR": machine.run(sys.executable, "-ISc", FIRST, interface).strip()}
    interfaces = [line.split() for line in machine.run(sys.executable, "-ISc", LISTED).splitlines()]
    proc = [line.split() for line in machine.run("cat", "/proc/net/if_inet6").splitlines()]
    return found | {
        "getifaddrs": next(
            address for name, address in interfaces if name == interface and _is_global(address)
        ),
        # Java's NetworkInterface reads this file, whose order is a hash's.
        "if_inet6": next(a for raw, *_, name in proc if name == interface and _is_global(a := _written(raw))),
    }


def _is_global(address: str) -> bool:
    """Return True for what k8s.io/apimachinery/pkg/util/net, getFinalIP, calls a global unicast address."""
    parsed = ipaddress.ip_address(address)
    return not (parsed.is_loopback or parsed.is_multicast or parsed.is_link_local)


def _written(raw: str) -> str:
    return str(ipaddress.IPv6Address(bytes.fromhex(raw)))
