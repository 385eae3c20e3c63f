"""Stand for ctypes where the program is static: it has no loader, so it opens no library.

pyroute2 imports ctypes to enter network namespaces, which the plugin does not do.
"""

from __future__ import annotations

from typing import Any, NoReturn

from . import util as util


class CDLL:
    """Refuse, as the loader does where there is no such library."""

    def __init__(self, name: str | None, *_: Any, **__: Any) -> None:
        raise OSError(f"{name}: a static program opens no library")


def get_errno() -> NoReturn:
    """Refuse: no function of a library can have been called."""
    raise OSError("a static program opens no library")
