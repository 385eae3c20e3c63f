"""Delete the connections of pods whose path has changed.

A connection keeps the source address of its first packet, so the guards would drop packets that now leave by another
exit. The rules reset TCP connections; other connections are deleted here.
"""

from __future__ import annotations

from collections.abc import Iterable

from cni.kernel.errors import KernelError

from ..ports import Kernel
from .destinations import ForwardingEntries, changed_path


class StaleConnections:
    """Connections to delete, by the address of a pod."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._moved: dict[str, tuple[ForwardingEntries, ForwardingEntries]] = {}
        """The forwarding entries by which the connections were opened, and the present ones."""

    def moved(self, addresses: Iterable[str], before: ForwardingEntries, now: ForwardingEntries) -> None:
        """Note that packets of these addresses leave by other forwarding entries than before."""
        if before != now:
            for address in addresses:
                first, _ = self._moved.get(address, (before, now))
                self._moved[address] = first, now

    async def delete(self) -> None:
        """Delete the connections. Raises KernelError; the next call tries again."""
        moved, self._moved = self._moved, {}
        if not moved:
            return
        try:
            await self._kernel.forget_connections(
                {source: changed_path(*entries) for source, entries in moved.items()}
            )
        except KernelError:
            self._moved = {**moved, **self._moved}
            raise
