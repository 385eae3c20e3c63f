"""Stand for ssl where the program has no OpenSSL.

asyncio and pyroute2 import these names; the plugin opens no TLS.
"""

from __future__ import annotations

from typing import Any, NoReturn


class SSLError(OSError):
    """An error that is never raised."""


class SSLWantReadError(SSLError):
    """An error that is never raised."""


class SSLSyscallError(SSLError):
    """An error that is never raised."""


class SSLSocket:
    """A class without instances."""


def create_default_context(*_: Any, **__: Any) -> NoReturn:
    """Refuse: there is no TLS."""
    raise OSError("this program has no TLS")
