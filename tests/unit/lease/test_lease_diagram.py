"""The picture in docs/design/lease-states.md shows the table of transitions."""

from __future__ import annotations

import pytest

from gateway_agent.lease.egress_ips.egress_ip import TRANSITIONS
from tests.tools import lease_diagram


def test_the_picture_is_that_of_the_table() -> None:
    assert lease_diagram.main(["--check"]) == 0, "run: python -m tests.tools.lease_diagram"


def test_every_transition_is_drawn() -> None:
    text = lease_diagram.diagram()
    for before, events in TRANSITIONS.items():
        for event, after in events.items():
            [arrow] = [line for line in text.splitlines() if f"{before.name} --> {after.name}:" in line]
            assert event.value in arrow


def test_a_document_without_a_place_for_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        lease_diagram.drawn("# no place here\n")
