"""Single values of the configuration: what is accepted, and the default with a problem for all else."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway_agent import config_values
from gateway_agent.config_values import MAX_RUN_DIR_BYTES
from gateway_agent.manifests.fields import Fields, Report

MS = 10**6


def fields(**given: object) -> Fields:
    return Fields(given, "", Report("agent.yaml"))


def problems(of: Fields) -> list[str]:
    return [problem.path for problem in of.report.problems]


@pytest.mark.parametrize(
    ("text", "ns"),
    [("1ms", MS), ("0.25s", 250 * MS), ("50ms", 50 * MS), ("60m", 3600 * 10**9), ("1.5s", 1500 * MS)],
)
def test_a_duration_has_a_number_and_a_unit(text: str, ns: int) -> None:
    given = fields(interval=text)
    assert config_values.duration_ns(given, "interval", 7) == ns
    assert problems(given) == []


@pytest.mark.parametrize("text", ["0.5ms", "61m", "50", "ms", "-1s", "1 s", "1h", "", 50, True])
def test_another_duration_is_a_problem_and_the_default_counts(text: object) -> None:
    given = fields(interval=text)
    assert config_values.duration_ns(given, "interval", 7) == 7
    assert problems(given) == ["interval"]


def test_an_absent_duration_is_no_problem() -> None:
    given = fields()
    assert config_values.duration_ns(given, "interval", 7) == 7
    assert problems(given) == []


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:9479", ("::1", 9479)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
    ],
)
def test_an_address_to_listen_on(text: str, address: tuple[str, int]) -> None:
    given = fields(listen=text)
    assert config_values.listen_address(given, ("127.0.0.1", 1)) == address
    assert problems(given) == []


@pytest.mark.parametrize(
    "text",
    [
        "::1:80",
        "[127.0.0.1]:80",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "host:80",
        "[::1]",
        "1.2.3:80",
    ],
)
def test_another_address_to_listen_on_is_a_problem(text: str) -> None:
    given = fields(listen=text)
    assert config_values.listen_address(given, ("127.0.0.1", 1)) == ("127.0.0.1", 1)
    assert problems(given) == ["listen"]


@pytest.mark.parametrize(("given", "mtu"), [(None, None), ("auto", None), (576, 576), (65485, 65485)])
def test_an_mtu(given: object, mtu: int | None) -> None:
    tunnel = fields(mtu=given)
    assert config_values.mtu(tunnel) == mtu
    assert problems(tunnel) == []


@pytest.mark.parametrize("given", [575, 65486, True, "1500", 1400.0])
def test_another_mtu_is_a_problem(given: object) -> None:
    tunnel = fields(mtu=given)
    assert config_values.mtu(tunnel) is None
    assert problems(tunnel) == ["mtu"]


@pytest.mark.parametrize(
    ("given", "mask", "wrong"),
    [
        ("0x0ff00000", 0x0FF00000, []),
        (0xFF00, 0xFF00, []),
        ("0", 5, ["mask"]),
        ("all", 5, ["mask"]),
        (True, 5, ["mask"]),
        (1 << 40, 5, ["mask"]),
    ],
)
def test_a_mask_of_marks(given: object, mask: int, wrong: list[str]) -> None:
    mark = fields(mask=given)
    assert config_values.mark_mask(mark, 5) == mask
    assert problems(mark) == wrong


def test_the_run_directory_leaves_room_for_the_names_of_sockets() -> None:
    longest = fields(runDir="/" + "r" * (MAX_RUN_DIR_BYTES - 1))
    config_values.run_dir(longest, Path("/run/x"))
    assert problems(longest) == []
    longer = fields(runDir="/" + "ä" * (MAX_RUN_DIR_BYTES // 2))
    config_values.run_dir(longer, Path("/run/x"))
    assert problems(longer) == ["runDir"]


@pytest.mark.parametrize(("text", "wrong"), [("/etc/key", []), ("key", ["keyFile"]), ("/a\0b", ["keyFile"])])
def test_a_path_is_absolute(text: str, wrong: list[str]) -> None:
    given = fields(keyFile=text)
    config_values.absolute_path(given, "keyFile", Path("/etc/default"))
    assert problems(given) == wrong
