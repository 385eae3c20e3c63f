"""The copy follows a server through every fault, and is never half a list."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.kubernetes.reflector import (
    ABSENT_BACKOFF_S,
    FIRST_BACKOFF_S,
    MAX_BACKOFF_S,
    MAX_DENIALS,
    MAX_STALE_LISTS,
    WATCH_S,
    Key,
    List,
    Object,
    Pause,
    Reflector,
    Watch,
)

PAGE = 2


def thing(name: str, version: int, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, **more}


def listed(*names: str, version: int = 5) -> Reflector:
    reflector = Reflector()
    assert reflector.page([thing(name, 1) for name in names], str(version))
    return reflector


def names(reflector: Reflector) -> set[str]:
    return {name for _, name in reflector.objects}


def test_it_lists_page_by_page_and_watches_from_there() -> None:
    reflector = Reflector({("", "old"): thing("old", 1)})
    assert reflector.step(0) == List()
    assert not reflector.page([thing("a", 1)], "5", "more")
    assert (names(reflector), reflector.synced) == ({"old"}, False)
    assert reflector.step(0) == List("more")
    assert reflector.page([thing("b", 2)], "5")
    assert (names(reflector), reflector.synced) == ({"a", "b"}, True)
    assert reflector.step(0) == Watch("5", WATCH_S)
    assert reflector.step(1) == Watch("5", 2 * WATCH_S)


def test_events_change_the_copy_and_move_the_version() -> None:
    reflector = listed("a")
    assert reflector.event("ADDED", thing("b", 6))
    assert reflector.event("MODIFIED", thing("a", 7, spec=1))
    assert not reflector.event("MODIFIED", thing("a", 7, spec=1))
    assert not reflector.event("BOOKMARK", {"metadata": {"resourceVersion": "12"}})
    assert reflector.step(0) == Watch("12", WATCH_S)
    assert reflector.event("DELETED", thing("b", 13))
    assert not reflector.event("DELETED", thing("b", 13))
    assert not reflector.event("SOMETHING NEW", thing("c", 14))
    assert names(reflector) == {"a"}


def test_a_list_that_is_older_than_what_is_known_is_not_taken() -> None:
    reflector = listed("a")
    reflector.event("ADDED", thing("b", 6))
    reflector.failed(410, "too old")
    for _ in range(MAX_STALE_LISTS):
        assert isinstance(reflector.step(0), Pause)
        assert reflector.step(0) == List()
        assert not reflector.page([thing("a", 1)], "4", "more")
        assert not reflector.page([], "5")
        assert (names(reflector), reflector.synced) == ({"a", "b"}, True)
        assert reflector.trouble == "a list that is older than the known objects: 5 after 6"
    assert reflector.step(0.5) != List("more")
    assert reflector.page([thing("a", 1), thing("c", 7)], "7")
    assert (names(reflector), reflector.trouble) == ({"a", "c"}, "")


@pytest.mark.parametrize("status", [403, 404])
def test_what_is_not_to_be_had_is_lacking_after_a_while(status: int) -> None:
    reflector = Reflector()
    for _ in range(MAX_DENIALS - 1):
        reflector.denied(status, "no")
        assert (reflector.lacking, reflector.trouble) == (False, "no")
    reflector.failed(503, "later")
    for _ in range(MAX_DENIALS):
        assert not reflector.lacking
        reflector.denied(status, "no")
    assert (reflector.lacking, reflector.synced) == (True, False)
    assert reflector.trouble == ("" if status == 404 else "no")
    pause = reflector.step(0)
    assert isinstance(pause, Pause)
    assert (pause.seconds >= ABSENT_BACKOFF_S) is (status == 404)
    assert reflector.step(0) == List()
    assert reflector.page([thing("a", 1)], "5")
    assert (reflector.lacking, reflector.synced) == (False, True)


def test_what_was_known_is_kept_for_long_where_it_is_not_to_be_had() -> None:
    reflector = listed("a")
    for _ in range(4 * MAX_DENIALS - 1):
        reflector.denied(404, "no")
    assert (names(reflector), reflector.trouble) == ({"a"}, "no")
    reflector.denied(404, "no")
    assert (names(reflector), reflector.trouble) == (set(), "")


def test_a_server_that_was_set_back_is_believed_in_the_end() -> None:
    reflector = listed("a", version=50)
    taken = [reflector.page([thing("b", 1)], "5") for _ in range(MAX_STALE_LISTS + 1)]
    assert taken == [False] * MAX_STALE_LISTS + [True]
    assert (names(reflector), reflector.trouble) == ({"b"}, "")
    assert not reflector.event("BOOKMARK", thing("", 6))


def test_a_watch_that_ends_goes_on_where_it_was() -> None:
    reflector = listed("a")
    reflector.event("ADDED", thing("b", 6))
    reflector.ended(lasted=0.1, events=1)
    assert reflector.step(0) == Watch("6", WATCH_S)
    reflector.ended(lasted=400, events=0)
    assert reflector.step(0) == Watch("6", WATCH_S)


def test_a_watch_that_ends_at_once_is_a_failure() -> None:
    reflector = listed("a")
    reflector.ended(lasted=0.01, events=0)
    assert isinstance(reflector.step(0), Pause)
    assert reflector.step(0) == Watch("5", WATCH_S)


@pytest.mark.parametrize("in_the_stream", [False, True])
def test_what_is_too_old_is_listed_anew_and_known_until_then(in_the_stream: bool) -> None:
    reflector = listed("a")
    if in_the_stream:
        assert not reflector.event("ERROR", {"kind": "Status", "code": 410, "message": "too old"})
        reflector.ended(lasted=1, events=1)
    else:
        reflector.failed(410, "too old")
    assert (names(reflector), reflector.trouble) == ({"a"}, "too old")
    assert isinstance(reflector.step(0.5), Pause)
    assert reflector.step(0) == List()


def test_a_list_that_says_no_version_is_a_failure() -> None:
    reflector = Reflector()
    assert not reflector.page([thing("a", 1)], "")
    assert (isinstance(reflector.step(0.5), Pause), reflector.step(0), reflector.objects) == (
        True,
        List(),
        {},
    )


def test_a_list_that_expires_begins_anew() -> None:
    reflector = listed("a")
    reflector.failed(410, "too old")
    reflector.step(0)
    reflector.page([thing("gone meanwhile", 3)], "9", "more")
    reflector.failed(410, "the list has expired")
    reflector.step(0)
    assert reflector.step(0) == List()
    reflector.page([thing("b", 10)], "11")
    assert names(reflector) == {"b"}


def test_an_error_in_between_repeats_the_page() -> None:
    reflector = Reflector()
    reflector.page([thing("a", 1)], "5", "more")
    reflector.failed(500, "etcd has no leader")
    reflector.step(0)
    assert reflector.step(0) == List("more")


def test_a_watch_that_was_taken_is_no_trouble_but_proves_nothing() -> None:
    reflector = listed("a")
    reflector.failed(0, "connection refused")
    reflector.opened()
    assert reflector.trouble == ""
    reflector.failed(0, "connection refused")
    reflector.step(0.5)
    reflector.failed(0, "connection refused")
    assert reflector.step(0.5) == Pause(4 * FIRST_BACKOFF_S)


def test_pauses_grow_to_a_limit_and_start_anew_when_all_is_well() -> None:
    reflector = listed("a")
    pauses = []
    for _ in range(12):
        reflector.failed(0, "connection refused")
        step = reflector.step(0.5)
        assert isinstance(step, Pause)
        pauses.append(step.seconds)
    assert pauses[:3] == [FIRST_BACKOFF_S, 2 * FIRST_BACKOFF_S, 4 * FIRST_BACKOFF_S]
    assert pauses[-1] == MAX_BACKOFF_S
    reflector.event("BOOKMARK", thing("", 6))
    reflector.failed(0, "connection refused")
    assert reflector.step(0.5) == Pause(FIRST_BACKOFF_S)


def test_pauses_of_many_agents_differ() -> None:
    def pause(chance: float) -> float:
        reflector = listed("a")
        reflector.failed(0, "connection refused")
        step = reflector.step(chance)
        assert isinstance(step, Pause)
        return step.seconds

    assert (pause(0), pause(1)) == (FIRST_BACKOFF_S / 2, FIRST_BACKOFF_S * 1.5)


def test_the_server_may_ask_for_a_longer_pause() -> None:
    reflector = listed("a")
    reflector.failed(429, "too many requests", retry_after=7)
    step = reflector.step(0)
    assert isinstance(step, Pause)
    assert step.seconds == 7


class Server:
    """Objects with a history, of which the oldest part may be forgotten."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.version = 1
        self.objects: dict[Key, Object] = {}
        self.history: list[tuple[int, str, Object]] = []
        self.states: list[set[Key]] = [set()]
        self.first = 1
        """The oldest version that can be watched from."""
        self.lists: dict[str, tuple[int, list[Object]]] = {}

    def change(self) -> None:
        self.version += 1
        name = self.source.choice("abcde")
        known = self.objects.get(("", name))
        item = thing(name, self.version)
        if known is not None and self.source.random() < 0.5:
            del self.objects["", name]
            self.history.append((self.version, "DELETED", item))
        else:
            self.objects["", name] = item
            self.history.append((self.version, "MODIFIED" if known else "ADDED", item))
        self.states.append(set(self.objects))

    def forget(self) -> None:
        self.first = self.version
        self.lists.clear()

    def serve(self, reflector: Reflector, faults: bool) -> None:
        """Answers the next request of the reflector, perhaps badly."""
        step = reflector.step(self.source.random())
        fault = self.source.random() if faults else 1.0
        if isinstance(step, Pause):
            return
        if fault < 0.2:
            reflector.failed(self.source.choice([0, 429, 500]), "fault", self.source.choice([0.0, 1.0]))
        elif isinstance(step, List):
            self._list(reflector, step.token)
        else:
            self._watch(reflector, int(step.version), cut=fault < 0.5)

    def _list(self, reflector: Reflector, token: str) -> None:
        if token and token not in self.lists:
            reflector.failed(410, "the list has expired")
            return
        version, items = self.lists[token] if token else (self.version, list(self.objects.values()))
        rest = items[PAGE:]
        following = f"{version}-{len(rest)}" if rest else ""
        if rest:
            self.lists[following] = version, rest
        reflector.page(items[:PAGE], str(version), following)

    def _watch(self, reflector: Reflector, version: int, cut: bool) -> None:
        if version < self.first:
            reflector.failed(410, "too old")
            return
        events = [(kind, item) for at, kind, item in self.history if at > version]
        events = events[: self.source.randint(0, len(events))] if cut else events
        for kind, item in events:
            reflector.event(kind, item)
        if not cut and self.source.random() < 0.5:
            reflector.event("BOOKMARK", thing("", self.version))
        reflector.ended(lasted=10, events=len(events))


@given(
    st.randoms(use_true_random=False), st.lists(st.sampled_from(["change", "forget", "serve"]), max_size=80)
)
def test_it_shows_only_states_that_were_and_ends_with_the_last(
    source: random.Random, history: list[str]
) -> None:
    server, reflector = Server(source), Reflector()
    for act in history:
        if act == "serve":
            server.serve(reflector, faults=True)
        else:
            getattr(server, act)()
        assert set(reflector.objects) in server.states
    for _ in range(30):
        server.serve(reflector, faults=False)
    assert reflector.objects == server.objects
    assert (reflector.synced, reflector.trouble) == (True, "")


def test_failed_requests_are_counted() -> None:
    reflector = Reflector()
    reflector.failed(503, "later")
    reflector.denied(403, "forbidden")
    assert reflector.errors == 2
