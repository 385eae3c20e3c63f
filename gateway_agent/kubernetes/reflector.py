"""Keep a copy of one kind of objects: list, then watch, by the rules of the Kubernetes API.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes. The module does no
I/O: :meth:`Reflector.step` returns the next request, and the other methods take its result. The copy is never half a
list, and old objects stay until there are newer ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]
Key = tuple[str, str]
"""(namespace, name); the namespace is empty for a cluster-scoped kind."""

WATCH_S = 300
"""Seconds of a watch, up to doubled at random, so that the watches of many agents do not end at the same time."""
SHORT_WATCH_S = 1.0
"""Seconds. A watch that ends sooner without an event has failed."""
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
"""Seconds after the first failure, doubled with each further one; plus or minus up to a half at random."""
MAX_DENIALS = 3
"""Number of consecutive refusals after which a kind counts as absent; four times as many if objects of the kind are
known. A single refusal may come from a starting server, or from a proxy.
"""
ABSENT_BACKOFF_S = 600.0
"""Seconds after which a server that lacks a kind is asked again."""
STALE_BACKOFF_S = 2.0
"""Seconds between two lists after one that is older than the copy."""
NOT_FOUND, FORBIDDEN = 404, 403
MAX_STALE_LISTS = 5
"""Number of consecutive lists older than the copy that are rejected. The next one is accepted: the server was restored.
"""
EXPIRED = 410
"""HTTP status: the version is too old for a watch, or the list too old to continue."""


@dataclass(frozen=True)
class List:
    """Request a page of the list: the first one, or the one of ``token``."""

    token: str = ""


@dataclass(frozen=True)
class Watch:
    """Request the changes since ``version``, including bookmarks, for ``seconds``."""

    version: str
    seconds: int


@dataclass(frozen=True)
class Pause:
    """Wait for ``seconds``."""

    seconds: float


Step = List | Watch | Pause


class Reflector:
    """The copy of one kind. ``objects``: the copy; before it is ``synced``, the objects of an earlier process."""

    def __init__(self, objects: Mapping[Key, Object] | None = None) -> None:
        self.objects: dict[Key, Object] = dict(objects or {})
        self.synced = False
        """True if a whole list has been read since the start."""
        self.errors = 0
        """Requests that have failed since the start."""
        self.trouble = ""
        """Error message of the last request; empty if it succeeded."""
        self._version = ""
        self._token = ""
        self._pages: dict[Key, Object] = {}
        self._failures = 0
        self._pause: float | None = None
        self.lacking = False
        """True if the server lacks the kind or refuses it, see :meth:`denied`."""
        self._denials = 0
        self._newest = 0
        self._older = 0

    def step(self, chance: float) -> Step:
        """Return the next request or pause. ``chance``: a random number from 0 to 1."""
        if self._pause is not None:
            least, self._pause = self._pause, None
            grown = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 10))
            return Pause(max(grown * (0.5 + chance), least * (1 + chance / 2)))
        if not self._version:
            return List(self._token)
        return Watch(self._version, round(WATCH_S * (1 + chance)))

    def page(self, items: Iterable[Object], version: str, token: str = "") -> bool:
        """Handle a page of the list; ``token``: not empty if there are more. Return True if the copy has changed."""
        if not version:
            self.failed(0, "a list without a resourceVersion")
            return False
        self.trouble = ""
        self._pages.update((key_of(item), item) for item in items)
        self._token = token
        if token:
            return False
        if self._sets_back(version):
            self._token, self._pages = "", {}
            # The backoff is for a server that does not answer. This server answers, though with an old list.
            self._well()
            text = f"a list that is older than the known objects: {version} after {self._newest}"
            self.failed(0, text, retry_after=STALE_BACKOFF_S)
            return False
        self.lacking, self._denials = False, 0
        changed = self._pages != self.objects or not self.synced
        self.objects, self._pages = self._pages, {}
        self._version = version
        self.synced = True
        return changed

    def opened(self) -> None:
        """Note that the server has accepted the watch. Its first event may take minutes."""
        self.trouble = ""

    def event(self, kind: str, item: Object) -> bool:
        """Handle an event of the watch. Return True if the copy has changed."""
        if kind == "ERROR":
            code = item.get("code")
            self.failed(
                code if isinstance(code, int) else 0,
                str(item.get("message") or item.get("reason") or "error"),
            )
            return False
        self._well()
        version = _metadata(item).get("resourceVersion")
        if isinstance(version, str) and version:
            self._version = version
            if version.isdecimal():
                self._newest = max(self._newest, int(version))
        if kind in ("ADDED", "MODIFIED"):
            before = self.objects.get(key_of(item))
            self.objects[key_of(item)] = item
            return before != item
        return kind == "DELETED" and self.objects.pop(key_of(item), None) is not None

    def ended(self, lasted: float, events: int) -> None:
        """Note that the server has ended the watch after ``lasted`` seconds and ``events`` events."""
        if self._pause is not None:
            # Its last event was an error, which has been handled.
            return
        if events or lasted >= SHORT_WATCH_S:
            self._well()
        else:
            self.failed(0, "the watch ended at once")

    def failed(self, status: int, message: str, retry_after: float = 0.0) -> None:
        """Note that a request has failed.

        ``status``: HTTP status, 0 without an answer. ``retry_after``: seconds that the server demands.
        """
        self.trouble = message
        self.errors += 1
        self._denials = 0
        self._failures += 1
        self._pause = retry_after
        if status == EXPIRED:
            # A new list, but after the backoff: the server has lost its history for all agents at the same time.
            self._version = self._token = ""
            self._pages = {}

    def denied(self, status: int, message: str) -> None:
        """Note that the server lacks an optional kind (404) or refuses access to it (403)."""
        denials = self._denials + 1
        self.failed(status, message)
        self._denials = denials
        if denials < MAX_DENIALS * (4 if self.objects else 1):
            return
        self.lacking = True
        if status == NOT_FOUND:
            self.trouble = ""
            self.objects, self._pages = {}, {}
            self._version = self._token = ""
            self._pause = ABSENT_BACKOFF_S

    def _sets_back(self, version: str) -> bool:
        """Return True if a list is older than the copy and must be rejected.

        Versions of one server grow. A version that is no number (no known server has such versions) is accepted.
        """
        if not version.isdecimal():
            return False
        self._older = self._older + 1 if int(version) < self._newest else 0
        if 0 < self._older <= MAX_STALE_LISTS:
            return True
        self._newest, self._older = int(version), 0
        return False

    def _well(self) -> None:
        self.trouble = ""
        self._failures = 0


def version_of(item: Object | None) -> str:
    """Return the ``resourceVersion`` of an object; empty if it has none."""
    return str(_metadata(item or {}).get("resourceVersion") or "")


def key_of(item: Object) -> Key:
    """Return (namespace, name) of an object."""
    metadata = _metadata(item)
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")


def _metadata(item: Object) -> Mapping[str, Any]:
    found = item.get("metadata")
    return found if isinstance(found, dict) else {}
