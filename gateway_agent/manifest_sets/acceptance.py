"""Decide whether a node applies a set of manifests of another node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from . import sets
from .sets import NONE, ManifestSet, Version

MAX_NAMED = 5
"""Largest number of files that a reason names."""


class Outcome(StrEnum):
    """The outcome of an offered set on one node."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    """The directory had these files already; only the version is recorded."""
    NEWER = "newer"
    """The node has a newer set."""
    NOT_MEANT = "not meant"
    """The set is for other nodes."""
    EDITED = "edited"
    """The directory was edited by hand."""
    FAILED = "failed"
    """The files cannot be written."""
    UNREACHABLE = "unreachable"
    """No authentic answer came."""


@dataclass(frozen=True)
class Local:
    """The manifests of this node."""

    last: ManifestSet | None
    """The last applied set; None: there was none."""
    files: Mapping[str, str | None]
    """The present files of the store, by name; None for a file that is no text."""

    @cached_property
    def version(self) -> Version:
        """Return the version of the last set."""
        return self.last.version if self.last else NONE

    @cached_property
    def content(self) -> bytes:
        """Return the digest of the present files; empty if one cannot be read."""
        found = [(name, text) for name, text in sorted(self.files.items()) if text is not None]
        return sets.content_of(found) if len(found) == len(self.files) else b""

    @property
    def edited(self) -> tuple[str, ...]:
        """Return the names of files that differ from the last set; all files if there was none."""
        before = dict(self.last.files) if self.last else {}
        names = sorted({*before, *self.files})
        return tuple(name for name in names if before.get(name) != self.files.get(name))


@dataclass(frozen=True)
class Decision:
    """The decision about a set; only :attr:`Outcome.APPLIED` and :attr:`Outcome.UNCHANGED` require an action."""

    outcome: Outcome
    detail: str = ""


def decide(local: Local, offered: ManifestSet, me: str, force: bool = False) -> Decision:
    """Return the decision of this node about a set.

    A directory is replaced if it has the files of the last set, or of an ancestor that the offered set names. Any other
    directory was edited by hand and stays, unless ``force``.
    """
    if not offered.is_for(me):
        return Decision(Outcome.NOT_MEANT, f"the set is for {', '.join(offered.targets)}")
    present = local.content
    if offered.version == local.version and present == offered.content:
        return Decision(Outcome.UNCHANGED)
    if offered.version < local.version:
        author = local.last.author if local.last else ""
        return Decision(Outcome.NEWER, f"it has set {local.version.text} of node {author}")
    if present == offered.content:
        return Decision(Outcome.UNCHANGED)
    known = {*offered.ancestors, *((local.last.content,) if local.last else ())}
    if local.files and present not in known and not force:
        how = "edited by hand" if local.last else "made by hand"
        return Decision(Outcome.EDITED, f"{how}: {_named(local.edited)}")
    return Decision(Outcome.APPLIED)


def _named(files: tuple[str, ...]) -> str:
    more = f" and {len(files) - MAX_NAMED} more" if len(files) > MAX_NAMED else ""
    return ", ".join(files[:MAX_NAMED]) + more


def next_set(
    local: Local, files: Mapping[str, str], me: str, highest: int, targets: tuple[str, ...] = ()
) -> ManifestSet:
    """Return the set of a push on this node. ``highest``: the highest number that a node has named.

    Before the first push, nodes are expected to have the same directory as this node.
    Raises :class:`.sets.Malformed` if the files are beyond the bounds.
    """
    number = max(local.version.number, highest) + 1
    first = (local.content,) if local.content else ()
    earlier = (local.last.content, *local.last.ancestors) if local.last else first
    return sets.made(number, me, files, targets, earlier)
