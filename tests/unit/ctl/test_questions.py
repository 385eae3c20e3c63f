"""What ``egressctl test`` and ``whois`` ask, by their arguments."""

from __future__ import annotations

import argparse

import pytest

from gateway_agent.ctl.questions import WrongCall, of_whois


def asked(end: str, to: str = "", at: str = "") -> dict[str, str]:
    return of_whois(argparse.Namespace(end=end, to=to, at=at))


def test_addresses_and_ports() -> None:
    question = asked("172.16.0.50:40000", "[2001:db8::10]:443")
    assert question == {"ip": "172.16.0.50", "port": "40000", "to": "2001:db8::10", "toPort": "443", "at": ""}
    assert asked("[2001:db8::1]:7")["port"] == "7"
    assert asked("2001:db8::1")["port"] == ""


@pytest.mark.parametrize(
    ("at", "seconds"), [("1970-01-01T00:00:10Z", 10.0), ("1970-01-01T02:00:00.5+02:00", 0.5)]
)
def test_times(at: str, seconds: float) -> None:
    assert float(asked("1.2.3.4:5", at=at)["at"]) == seconds


@pytest.mark.parametrize("at", ["yesterday", "9999-99-99", "10:00"])
def test_what_is_no_time(at: str) -> None:
    with pytest.raises(WrongCall, match="is no time"):
        asked("1.2.3.4:5", at=at)
