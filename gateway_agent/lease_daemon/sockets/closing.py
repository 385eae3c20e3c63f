"""Close packet sockets without waiting.

The close of each packet socket waits in the kernel for an RCU grace period: some 20 ms, and hundreds of milliseconds on
a busy machine, where threads without real-time priority end the period. A lease daemon that waited would neither renew
its leases nor vote meanwhile.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence


def close_apart(sockets: Sequence[socket.socket]) -> None:
    """Close sockets in a thread of its own. Packets that they still receive are not read."""
    if not sockets:
        return
    # Imported only here: the start of a daemon is part of a failover.
    import threading

    def close() -> None:
        for each in sockets:
            each.close()

    threading.Thread(target=close, name="closing", daemon=True).start()
