"""Convert command-line arguments to questions for the agent. Pure."""

from __future__ import annotations

import argparse
from datetime import datetime

STATUS_EXAMPLES = """examples:
  egressctl status
  egressctl status -o wide     all findings and problems, voters, counts of messages
  egressctl status --all       one line for each node; exit code 3 if one of them is not OK"""

TEST_EXAMPLES = """examples:
  egressctl test
  egressctl test partner --to 203.0.113.10:443
  egressctl test --all         from each node by each egress IP"""
TEST_ALL_S = 120.0
"""Seconds for a test of all nodes."""


class WrongCall(Exception):
    """An argument is invalid."""


def add_test_options(test: argparse.ArgumentParser) -> None:
    """Add the arguments of ``egressctl test``."""
    test.add_argument("gateway", metavar="GATEWAY", nargs="?", default="", help="only by its egress IPs")
    test.add_argument(
        "--to", metavar="ADDRESS[:PORT]", default="", help="send to this service instead of the next hop"
    )
    test.add_argument("--all", action="store_true", help="from all nodes, not only from this one")
    test.epilog = TEST_EXAMPLES


def of_test(options: argparse.Namespace) -> dict[str, object]:
    """Return the question of ``egressctl test``."""
    to, port = address_and_port(options.to)
    return {"gateway": options.gateway, "to": to, "port": port, **({"all": True} if options.all else {})}


def of_whois(options: argparse.Namespace) -> dict[str, str]:
    """Return the question of ``egressctl whois``. Raises :class:`WrongCall`.

    A time without a zone is local time.
    """
    (ip, port), (to, to_port) = address_and_port(options.end), address_and_port(options.to)
    try:
        at = str(datetime.fromisoformat(options.at).timestamp()) if options.at else ""
    except (ValueError, OverflowError) as error:
        raise WrongCall(f"{options.at!r} is no time: as 2026-11-29T10:00:00Z") from error
    return {"ip": ip, "port": port, "to": to, "toPort": to_port, "at": at}


def address_and_port(text: str) -> tuple[str, str]:
    """Return address and port of ``ADDRESS[:PORT]``; an IPv6 address with a port is in brackets.

    The agent reports invalid values.
    """
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        return address, port.removeprefix(":")
    if text.count(":") == 1:
        address, _, port = text.partition(":")
        return address, port
    return text, ""
