"""Refuse HTTP requests for foreign host names. Pure.

A web page can make its own name resolve to 127.0.0.1 or to a node (DNS rebinding). Then the browser treats the answers
of this server as part of that page, and lets the page's scripts read them. Such a request carries the page's host name.
Requests by an address cannot be redirected that way, and the names in the configuration are trusted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable

LOCAL = "localhost"


def refused(hosts: Iterable[str], names: Collection[str]) -> str:
    """Return the host name of a request if it is foreign; empty if the request may be answered.

    ``hosts``: the values of all its ``Host`` fields. ``names``: names of this machine, in lower case. Addresses and
    localhost are always allowed. A request without ``Host`` is allowed: no browser sends one.
    """
    for host in hosts:
        name = _without_port(host).lower().removesuffix(".")
        if not (_is_address(name) or name == LOCAL or name in names):
            return host or "nothing"
    return ""


def _without_port(host: str) -> str:
    """Return the name or address in ``NAME:PORT`` or ``[ADDRESS]:PORT``."""
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
