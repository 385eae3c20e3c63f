"""The version of the protocol between lease daemons, and nodes that have another one."""

from __future__ import annotations

from dataclasses import dataclass

PROTOCOL = 1
"""Version of the protocol. It grows only where older and newer nodes would misunderstand each other: a message of
another version is named and does not count. The envelope keeps its fields in all versions, so that it can be named.
"""


@dataclass(frozen=True)
class OtherVersion:
    """A message from the address of a known node that is not of this version of the protocol."""

    address: str
    version: int
    """0: it names none, or this one, and cannot be read all the same."""
    at: int

    def problem(self, name: str, me: str) -> str:
        """Return the text of the problem. ``name``: the other node. ``me``: this one."""
        between = "until all nodes have the same one, these two exchange no leases"
        if self.version:
            other = f"speaks version {self.version} of the protocol and this node ({me}) version {PROTOCOL}"
        else:
            other = f"sends messages that are not of version {PROTOCOL} of the protocol, which this node ({me}) speaks"
        return f"node {name} at {self.address} {other}: {between}"
