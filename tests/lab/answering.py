"""A machine that answers for virtual IPv6 addresses as the lease daemon does: a thread in the keeper's place."""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from gateway_agent.lease_daemon.sockets.arp_socket import Announcer

from .namespace import Namespace


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@contextmanager
def answering(
    machine: Namespace,
    *places: tuple[str, str],
    claimed: Callable[[str, str, str], None] = lambda *claim: None,
) -> Iterator[Announcer]:
    """Answer, on a machine, solicitations of these (address, interface).

    ``claimed(address, mac, interface)`` is called for claims of other machines.
    """
    selector, announcer = selectors.DefaultSelector(), machine.inside(Announcer)
    announcer.listen(selector, claimed)
    for address, interface in places:
        machine.inside(partial(announcer.answer, address, interface))
    ended = os.eventfd(0, os.EFD_CLOEXEC)
    selector.register(ended, selectors.EVENT_READ)

    def read() -> None:
        while True:
            due = (announcer.next_wake() - now()) / 1e9
            for key, _ in selector.select(min(max(due, 0.0), 0.05)):
                if key.fileobj == ended:
                    return
                key.data()
            announcer.resume(now())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield announcer
    finally:
        os.eventfd_write(ended, 1)
        thread.join()
        announcer.close()
        selector.close()
        os.close(ended)
