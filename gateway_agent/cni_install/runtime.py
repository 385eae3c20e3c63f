"""Ask the container runtime which plugins it has loaded, and remember the results of trials."""

from __future__ import annotations

import time
from pathlib import Path

from ..container_engines import cri

ASKED_S, TRIED_S = 5.0, 2.0
"""Seconds after a change in which the runtime is asked again; seconds within which it should have loaded a drop-in."""


class Runtime:
    """The runtime at a CRI socket; None: no runtime is asked."""

    def __init__(self, socket: Path | None) -> None:
        self._socket = socket
        self._state: object = None
        self._ask_until_s = self._try_until_s = 0.0
        self._loaded: tuple[str, ...] | None = None
        self._without_drop_ins: object = None
        self._with_drop_ins: object = None

    def loaded(self, network: str, files: object) -> tuple[str, ...] | None:
        """Return the types of the plugins that the runtime has loaded for a network; None if that is not known.

        ``files``: anything that differs if the configuration does. The runtime is asked for some seconds after a
        change, as it may not have seen it yet; after that, its last answer counts.
        """
        state, now_s = (network, files, self._start()), time.monotonic()
        if state != self._state:
            self._state, self._ask_until_s = state, now_s + ASKED_S
        if now_s < self._ask_until_s:
            self._loaded = self._asked(network)
        return self._loaded

    def loads_no_drop_ins(self) -> bool:
        """Return True if a trial since the start of the runtime has shown that."""
        start = self._start()
        return start is not None and start == self._without_drop_ins

    def tries(self) -> bool:
        """Start or continue a trial. Return False if the trial has timed out."""
        now_s = time.monotonic()
        if not self._try_until_s:
            self._try_until_s = now_s + TRIED_S
        if now_s < self._try_until_s:
            return True
        self._try_until_s, self._without_drop_ins = 0.0, self._start()
        return False

    def tried(self, loads_drop_ins: bool) -> None:
        """End a trial. ``loads_drop_ins``: True if the runtime has loaded the drop-in."""
        self._try_until_s = 0.0
        self._with_drop_ins = self._start() if loads_drop_ins else None

    def loads_drop_ins(self, written: float) -> bool:
        """Return True if an entry that the runtime has loaded proves that it loads drop-ins.

        ``written``: time of the last change of the network's own file, Unix time in seconds.
        """
        start = self._start()
        proven = start is not None and start == self._with_drop_ins
        return proven or not 0 <= time.time() - written < TRIED_S

    def _start(self) -> tuple[int, int] | None:
        """Return an identity of the runtime's socket, which a restart replaces; None if there is no socket."""
        try:
            if self._socket is not None and self._socket.is_socket():
                state = self._socket.stat()
                return state.st_ino, state.st_ctime_ns
        except OSError:
            pass
        return None

    def _asked(self, network: str) -> tuple[str, ...] | None:
        """Ask the runtime. If it reports nothing, or another network, it has loaded no plugin of this network.

        Between two configurations, and after a load that has failed, it has loaded no network at all.
        """
        if self._socket is None or self._start() is None:
            return None
        try:
            loaded = cri.loaded(self._socket)
        except (OSError, ValueError):
            return None
        if loaded is None:
            return ()
        if loaded.error or not loaded.name:
            return None
        return loaded.plugins if loaded.name == network else ()
