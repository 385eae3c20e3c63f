"""Keeps a copy of one kind of objects: list, then watch, by the rules of the Kubernetes API.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes. It does no I/O:
:meth:`Reflector.step` says what to do next, the other methods are told what came of it. The copy is never half a list,
and what was known stays until there is something newer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]
Key = tuple[str, str]
"""Namespace (empty where the kind has none) and name."""

WATCH_SECONDS = 300
"""A watch lasts so long, or up to twice as long: watches of many agents should not end together."""
SHORT_WATCH_S = 1.0
"""Seconds. A watch that ends sooner and brings nothing has failed."""
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
"""Seconds after the first failure; doubled with each, and made up to a half longer or shorter by chance."""
MAX_DENIALS = 3
"""So many refusals in a row mean that there is nothing to be had, and four times as many that what was known is gone:
one may be of a server that is still starting, or of a proxy before it."""
ABSENT_BACKOFF_S = 600.0
"""Seconds after which a server that does not have a kind is asked again."""
STALE_BACKOFF_S = 2.0
"""Seconds from one list that is older than what is known to the next."""
NOT_FOUND, FORBIDDEN = 404, 403
MAX_STALE_LISTS = 5
"""So many lists in a row that are older than what is known are not taken; then the server has been set back."""
EXPIRED = 410
"""HTTP status: the version is too old to watch from, or the list too old to go on with."""


@dataclass(frozen=True)
class List:
    """Ask for a page of the list: the first, or the one that ``token`` stands for."""

    token: str = ""


@dataclass(frozen=True)
class Watch:
    """Ask for what has changed since ``version``, bookmarks included, for so many seconds."""

    version: str
    seconds: int


@dataclass(frozen=True)
class Pause:
    seconds: float


Step = List | Watch | Pause


class Reflector:
    """``objects`` are the copy, also before it is ``synced``: what an earlier process knew."""

    def __init__(self, objects: Mapping[Key, Object] | None = None) -> None:
        self.objects: dict[Key, Object] = dict(objects or {})
        self.synced = False
        """A whole list has come since the start."""
        self.trouble = ""
        """What the last request failed with; empty where it did not."""
        self._version = ""
        self._token = ""
        self._pages: dict[Key, Object] = {}
        self._failures = 0
        self._pause: float | None = None
        self.lacking = False
        """Nothing of the kind is to be had here; see :meth:`denied`."""
        self._denials = 0
        self._newest = 0
        self._older = 0

    def step(self, chance: float) -> Step:
        """What to do now. ``chance``: a random number from 0 to 1."""
        if self._pause is not None:
            least, self._pause = self._pause, None
            grown = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 10))
            return Pause(max(grown * (0.5 + chance), least * (1 + chance / 2)))
        if not self._version:
            return List(self._token)
        return Watch(self._version, round(WATCH_SECONDS * (1 + chance)))

    def page(self, items: Iterable[Object], version: str, token: str = "") -> bool:
        """A page has come; ``token`` where there are more. Whether the copy has changed."""
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
            # A server that answers, if with the wrong thing, need not be spared as one that does not.
            self._well()
            words = f"a list that is older than what is known: {version} after {self._newest}"
            self.failed(0, words, retry_after=STALE_BACKOFF_S)
            return False
        self.lacking, self._denials = False, 0
        changed = self._pages != self.objects or not self.synced
        self.objects, self._pages = self._pages, {}
        self._version = version
        self.synced = True
        return changed

    def opened(self) -> None:
        """The server has taken the watch; its first event may be minutes away."""
        self.trouble = ""

    def event(self, kind: str, item: Object) -> bool:
        """An event of the watch has come. Whether the copy has changed."""
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
        """The server has ended the watch after ``lasted`` seconds, without an error."""
        if self._pause is not None:
            # It ended with an error as its last event.
            return
        if events or lasted >= SHORT_WATCH_S:
            self._well()
        else:
            self.failed(0, "the watch ended at once")

    def failed(self, status: int, message: str, retry_after: float = 0.0) -> None:
        """A request has failed. ``status``: of HTTP, 0 where there was no answer; ``retry_after``: seconds that the
        server asks for."""
        self.trouble = message
        self._denials = 0
        self._failures += 1
        self._pause = retry_after
        if status == EXPIRED:
            # Not at once: where the server has lost its history, it has done so for everybody.
            self._version = self._token = ""
            self._pages = {}

    def denied(self, status: int, message: str) -> None:
        """The server does not have the kind (404), or does not show it (403), and one can do without it."""
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
        """Versions of one server grow. Where one is no number (no server in use has that) nothing is compared."""
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
    return str(_metadata(item or {}).get("resourceVersion") or "")


def key_of(item: Object) -> Key:
    metadata = _metadata(item)
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")


def _metadata(item: Object) -> Mapping[str, Any]:
    found = item.get("metadata")
    return found if isinstance(found, dict) else {}
