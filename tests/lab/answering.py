"""A machine that answers for virtual IPv6 addresses as the lease keeper does: a thread in the keeper's place."""

from __future__ import annotations

import selectors
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from gateway_agent.lease_daemon.arp_socket import Announcer

from .namespace import Namespace


@contextmanager
def answering(machine: Namespace, *places: tuple[str, str]) -> Iterator[Announcer]:
    """Answer, on a machine, who asks for these (address, interface)."""
    selector, announcer = selectors.DefaultSelector(), machine.inside(Announcer)
    announcer.listen(selector, lambda *claim: None)
    for address, interface in places:
        machine.inside(partial(announcer.answer, address, interface))
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            for key, _ in selector.select(0.05):
                key.data()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield announcer
    finally:
        ended.set()
        thread.join()
        announcer.close()
        selector.close()
