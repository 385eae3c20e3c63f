"""Which names a browser may know this machine by. Pure.

A page on the web can let its own name lead to 127.0.0.1 or to a node (DNS rebinding): then the browser takes what is
served here for a part of that page, and shows it to the page's scripts. Such a request names the page's host. An
address cannot be made to lead elsewhere, and names that the owner has given are the owner's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

LOCAL = "localhost"
_FIELD = re.compile(rb"^host[ \t]*:[ \t]*([^\r\n]*?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


def refused(head: bytes, names: Collection[str]) -> str:
    """Return the host that a request asks for if it is none of ours; empty if the request may be answered.

    ``head``: the request line and the header fields. ``names``: those of this machine, beside its addresses.
    A request without a host is of no browser.
    """
    for found in _FIELD.findall(head):
        host = found.decode("latin-1")
        name = _without_port(host).lower().removesuffix(".")
        if not (_is_address(name) or name == LOCAL or name in names):
            return host or "nothing"
    return ""


def _without_port(host: str) -> str:
    """Return the name or address of ``NAME:PORT`` or ``[ADDRESS]:PORT``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, _, port = host.rpartition(":")
    return name if name and port.isdecimal() else host


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
