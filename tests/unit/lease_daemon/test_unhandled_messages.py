"""Messages that a lease daemon could not handle: a problem for a while."""

from __future__ import annotations

from pathlib import Path

from gateway_agent.lease_daemon.process import boottime
from gateway_agent.lease_daemon.unhandled_messages import UNHANDLED_NS

from .small_daemon import started


def test_a_message_that_could_not_be_handled_is_a_problem_for_a_stated_time(tmp_path: Path) -> None:
    daemon = started(tmp_path)
    assert daemon._current_problems(boottime()) == ()
    assert daemon._node is not None
    endpoint = daemon._node.endpoint
    # A fault of ours, whatever the message.
    del daemon._node.endpoint
    daemon._receive([(b"anything", "10.0.0.2")])
    daemon._node.endpoint = endpoint
    now = boottime()
    [text] = daemon._current_problems(now)
    assert text.startswith("a message from 10.0.0.2 could not be handled: AttributeError")
    assert daemon._current_problems(now + UNHANDLED_NS) == ()
