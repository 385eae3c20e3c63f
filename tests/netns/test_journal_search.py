"""Lines of the connection log in a real journal are found again by one of their ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

JOURNALD = "/lib/systemd/systemd-journald"
SET_UP = """
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir -p /run/log/journal
(trap 'kill $daemon; exit' TERM; while true; do "$0" & daemon=$!; wait $daemon || true; done) & manager=$!
trap 'kill $manager' EXIT
"$@"
"""
"""Runs the daemon with a /run of its own, again if it ends as a service manager would, and a command beside it."""
CONNECTIONS = 1000
SCRIPT = f"""
import socket, time
from pathlib import Path
from gateway_agent.connection_log import journal, lines
from gateway_agent.connection_log.halves import UNKNOWN_END, UNKNOWN_POD, Half
from gateway_agent.connection_log.recorder import START, Record
from gateway_agent.connection_log.sightings import Query

def line(number, shown="172.16.0.50"):
    half = Half("partner", (shown, 1000 + number), "tcp", ("203.0.113.10", 443), "w1",
                ("10.0.0.21", 20000 + number), UNKNOWN_POD, UNKNOWN_END)
    return lines.line(number, "g1", Record(START, half, -1, -1))

deadline = time.monotonic() + 30
while not journal.SOCKET.exists() and time.monotonic() < deadline:
    time.sleep(0.02)
numbers = range({CONNECTIONS})
left = list(map(line, numbers))
while left and time.monotonic() < deadline:
    try:
        del left[: journal.Journal().append(b"".join(left))]
    except OSError:
        time.sleep(0.02)
assert not left
last = Query(("172.16.0.50", 1000 + numbers[-1]))
while not journal.find(last) and time.monotonic() < deadline:
    time.sleep(0.1)
for number in (*numbers[::100], numbers[-1]):
    for query in (Query(("172.16.0.50", 1000 + number)), Query(("10.0.0.21", 20000 + number), inside=True)):
        assert [one.seconds for one in journal.find(query)] == [number], query
assert journal.find(Query(("172.16.0.50", 999))) == []
assert journal.find(Query(("172.16.0.5", 1000))) == []
# Another user's entry has all of our fields, and is no line of ours.
import os
child = os.fork()
if not child:
    os.setuid(65534)
    os._exit(journal.Journal().append(line(0, "172.16.0.99")) != 1)
assert os.waitpid(child, 0)[1] == 0
assert journal.Journal().append(line(1, "172.16.0.99")) == 1
while not journal.find(Query(("172.16.0.99", 1001))) and time.monotonic() < deadline:
    time.sleep(0.1)
assert journal.find(Query(("172.16.0.99", 1000))) == []
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a mount namespace")
@pytest.mark.skipif(
    not (Path(JOURNALD).exists() and shutil.which("journalctl")), reason="needs the journal of systemd"
)
def test_lines_in_the_journal_are_found_by_both_ends() -> None:
    command = (sys.executable, "-c", SCRIPT)
    done = subprocess.run(
        ("unshare", "--mount", "--propagation", "private", "bash", "-c", SET_UP, JOURNALD, *command),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
