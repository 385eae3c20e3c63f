"""nft's own library, in this process: its netlink socket stays open from one command to the next.

A process of ``nft`` closes its socket when it ends, which delays the lease daemon: :mod:`..netlink.netfilter`.
"""

from __future__ import annotations

import ctypes
import os
import threading

from ..errors import KernelError

LIBRARY = "libnftables.so.1"
HANDLES = 1 << 3
"""``NFT_CTX_OUTPUT_HANDLE`` of ``<nftables/libnftables.h>``."""


class Commands:
    """One context of the library. Raises OSError if there is no such library."""

    def __init__(self) -> None:
        library = ctypes.CDLL(LIBRARY)
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._library = library
        # Only glibc has this function.
        self._trim = getattr(library, "malloc_trim", None)
        self._lock = threading.Lock()
        before = _descriptors()
        context = library.nft_ctx_new(0)
        if not context:
            raise OSError("nft_ctx_new")
        # The library's socket would outlive a restart in place.
        for descriptor in _descriptors() - before:
            os.set_inheritable(descriptor, False)
        self._context = ctypes.c_void_p(context)
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def run(self, text: str, handles: bool = False) -> str:
        """Return the output of these commands: one transaction. Raises KernelError."""
        with self._lock:
            self._library.nft_ctx_output_set_flags(self._context, ctypes.c_uint(HANDLES if handles else 0))
            code = self._library.nft_run_cmd_from_buffer(self._context, ctypes.c_char_p(text.encode()))
            output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
            errors: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        self._give_back()
        if code:
            lines = errors.decode(errors="replace").strip().splitlines() or [f"error {code}"]
            raise KernelError(f"nft: {lines[0]}", "see nft list ruleset")
        return output.decode(errors="replace")

    def _give_back(self) -> None:
        """Return the library's freed memory to the system: with thousands of elements, tens of MiB."""
        if self._trim is not None:
            self._trim(ctypes.c_size_t(0))


def _descriptors() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
        except OSError:
            continue
        found.add(int(name))
    return found
