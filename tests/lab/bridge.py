"""A bridge whose MAC does not depend on its ports.

The kernel gives a bridge the lowest MAC of its ports. So the MAC changes as ports come and go, and what a neighbour
has learned in between is wrong afterwards: for some seconds nothing of it arrives. The bridge plugin fixes the MAC too.
"""

from __future__ import annotations

import zlib


def bridge(name: str, options: str = "") -> tuple[str, str]:
    """Return the ``ip`` commands that make a bridge and bring it up. ``options``: of the bridge, as ``ip`` takes them.

    Two bridges of one name are not to be on one link: they have one MAC.
    """
    # Locally administered.
    mac = (b"\x02\xb0" + zlib.crc32(name.encode()).to_bytes(4, "big")).hex(":")
    return f"link add {name} address {mac} type bridge {options}".rstrip(), f"link set {name} up"
