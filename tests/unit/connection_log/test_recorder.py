"""Events of the connection table that become lines."""

from __future__ import annotations

from gateway_agent.connection_log.recorder import END, START, Record, Recorder

from .test_halves import IN_TUNNEL, LAYOUT, OUT, POD, WORKER, attachment, flow, known, seen


def test_a_start_has_no_bytes_and_an_end_has_them() -> None:
    recorder = Recorder()
    begun = recorder.begun(WORKER, OUT._replace(bytes_out=-1, bytes_in=-1), False)
    assert begun == Record(START, seen(WORKER, OUT), -1, -1)
    assert recorder.ended(WORKER, OUT) == Record(END, seen(WORKER, OUT), 100, 200)


def test_an_end_names_the_pod_of_the_start() -> None:
    recorder = Recorder()
    recorder.begun(WORKER, OUT, False)
    later = known("w1", attachment("other", POD))
    ended = recorder.ended(later, OUT._replace(mark=LAYOUT.stale))
    assert ended is not None
    assert ended.half.pod == ("prod", "api")


def test_two_connections_may_have_one_identity() -> None:
    """The kernel's is a hash of 32 bits: of 60,000 connections two had the same."""
    recorder, other = Recorder(), flow((POD, 40001), ("10.0.0.21", 50002), LAYOUT.number(1))
    recorder.begun(WORKER, OUT, False)
    recorder.begun(WORKER, other, False)
    ended = [recorder.ended(WORKER, each) for each in (OUT, other)]
    assert [each.half.inside for each in ended if each] == [IN_TUNNEL, ("10.0.0.21", 50002)]


def test_an_end_without_a_start_is_logged() -> None:
    """The log began while the connection was open."""
    assert Recorder().ended(WORKER, OUT) == Record(END, seen(WORKER, OUT), 100, 200)


def test_copies_of_connection_sync_are_not_logged_again() -> None:
    copy = flow(IN_TUNNEL, ("172.16.0.60", 1), LAYOUT.number(2) | LAYOUT.tunneled)
    recorder, standby = Recorder(), known("g2")
    assert recorder.begun(standby, copy, injected=True) is None
    assert recorder.ended(standby, copy) is None
    # The master of now has taken it over.
    assert recorder.ended(known("g1"), copy) is not None
