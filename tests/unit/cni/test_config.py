"""The configuration: the walk over its top level, and what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import config, contract

RESULT = {"cniVersion": "1.0.0", "interfaces": [], "ips": []}


def configuration(**changes: Any) -> bytes:
    """Return a good configuration with ``changes``; None takes a key away."""
    whole = {"cniVersion": "1.0.0", "name": "pods", "type": "egress-gateway", "prevResult": RESULT, **changes}
    return json.dumps({key: value for key, value in whole.items() if value is not None}).encode()


def refusal(command: str, raw: bytes) -> contract.CNIError:
    with pytest.raises(contract.CNIError) as caught:
        document = config.read(raw)
        config.version(command, document)
        config.parse(command, document)
    return caught.value


blanks = st.text(alphabet=" \t\n\r", max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def objects(draw: st.DrawFn) -> str:
    """Return the text of a JSON object with odd white space, escapes, and members of one name."""
    members = []
    for name, value in draw(st.lists(st.tuples(st.text(max_size=3), values), max_size=6)):
        escaped = draw(st.booleans())
        parts = (json.dumps(name, ensure_ascii=escaped), ":", json.dumps(value, ensure_ascii=escaped))
        members.append("".join(draw(blanks) + part + draw(blanks) for part in parts))
    inside = ",".join(members) if members else draw(blanks)
    return draw(blanks) + "{" + inside + "}" + draw(blanks)


def strict_json(text: str) -> Any:
    """Return the result of ``json`` without its extensions (NaN, Infinity)."""

    def refuse(name: str) -> float:
        raise ValueError(name)

    return json.loads(text, parse_int=float, parse_float=float, parse_constant=refuse)


@given(objects())
def test_walk_finds_what_json_finds_and_its_position(text: str) -> None:
    found = config.members(text)
    assert {name: value for name, (value, _, _) in found.items()} == strict_json(text)
    for value, start, end in found.values():
        assert strict_json(text[start:end]) == value
        assert text[start:end] == text[start:end].strip(" \t\n\r")


@given(st.data())
def test_walk_refuses_what_json_refuses(data: st.DataObject) -> None:
    text = data.draw(objects())
    at = data.draw(st.integers(0, len(text)))
    wrong = data.draw(st.sampled_from(["", *'{}[]",:0\\ x\x00\n']))
    broken = text[:at] + wrong + text[at + data.draw(st.integers(0, 1)) :]
    try:
        expected = strict_json(broken)
    except ValueError:
        expected = None
    if isinstance(expected, dict):
        assert {name: value for name, (value, _, _) in config.members(broken).items()} == expected
    else:
        with pytest.raises(ValueError):
            config.members(broken)


@pytest.mark.parametrize(
    "result",
    [
        '{"cniVersion":"1.0.0"}',
        '{ "a" :\t1 ,\r\n "b":[ ] }',
        '{"größe": "\\u00fc\\ud83d\\ude00 ü 😀", "lone": "\\ud800"}',
        '{"number": 123456789012345678901234567890123456789.10e-3, "long": ' + "9" * 5000 + "}",
        '{"a": 1, "a": 2, "prevResult": {"in": "side"}}',
    ],
)
def test_previous_result_is_kept_character_for_character(result: str) -> None:
    text = f' {{"type" : "t","prevResult":\n {result} \t, "name":"n","cniVersion":"1.0.0"}}\n'
    settings = config.parse("ADD", config.read(text.encode()))
    assert settings.previous == result


@pytest.mark.parametrize("version", config.VERSIONS)
def test_defaults(version: str) -> None:
    settings = config.parse("ADD", config.read(configuration(cniVersion=version)))
    assert settings.socket == "/run/egress-gateway/agent.sock"
    assert settings.failure_policy == "Fail"


def test_keys_of_the_runtime_are_let_be() -> None:
    extra = {
        "capabilities": {"portMappings": True},
        "runtimeConfig": {},
        "ipam": {"type": "host-local"},
        "args": {},
    }
    raw = configuration(**extra, failurePolicy="Ignore", socket="/x/y.sock")
    settings = config.parse("ADD", config.read(raw))
    assert (settings.failure_policy, settings.socket) == ("Ignore", "/x/y.sock")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "stdin"),
        (b"  \n", "stdin"),
        (b"[]", "no {"),
        (b"null", "no {"),
        (b"{", 'no "'),
        (b'{"a": }', "no value"),
        (b'{"a": 1,}', 'no "'),
        (b'{"a": 1} x', "follows"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 01}', "no }"),
        (b'{"a": "\x00"}', "control character"),
        (b"\xff\xfe{}", "utf-8"),
        (b"\xef\xbb\xbf{}", "no {"),
        (b'{"a": ' + b"[" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_not_json(raw: bytes, says: str) -> None:
    error = refusal("ADD", raw)
    assert error.code == contract.NOT_JSON
    assert says.lower() in f"{error.msg} {error.details}".lower()


@pytest.mark.parametrize("version", [None, "", "0.1.0", "0.2.0", "0.3.0", "1.2.0", "1.0", 1, ["1.0.0"]])
def test_unknown_version(version: object) -> None:
    error = refusal("ADD", configuration(cniVersion=version))
    assert error.code == contract.INCOMPATIBLE_VERSION
    assert "0.3.1, 0.4.0, 1.0.0, 1.1.0" in error.details


@pytest.mark.parametrize(
    ("command", "version", "allowed"),
    [
        ("CHECK", "0.3.1", False),
        ("CHECK", "0.4.0", True),
        ("STATUS", "1.0.0", False),
        ("STATUS", "1.1.0", True),
        ("GC", "1.0.0", False),
        ("GC", "1.1.0", True),
        ("DEL", "0.3.1", True),
    ],
)
def test_commands_came_with_versions(command: str, version: str, allowed: bool) -> None:
    raw = configuration(cniVersion=version)
    if allowed:
        assert config.version(command, config.read(raw)) == version
    else:
        assert refusal(command, raw).code == contract.INCOMPATIBLE_VERSION


@pytest.mark.parametrize(
    ("changes", "field", "hint"),
    [
        ({"name": None}, "name is missing", "required"),
        ({"name": ""}, "name", "not empty"),
        ({"type": 5}, "type", "string"),
        ({"failurePolicy": "fail"}, "failurePolicy: 'fail'", "Fail or Ignore"),
        ({"failurePolicy": ["Fail"]}, "failurePolicy", "Fail or Ignore"),
        ({"socket": "agent.sock"}, "socket: 'agent.sock'", "absolute path"),
        ({"socket": 7}, "socket", "absolute path"),
        ({"socket": "/a\0b"}, "socket", "absolute path"),
        ({"socket": "/" + "s" * 107}, "socket", "107 bytes"),
        ({"socket": "/\ud800"}, "socket", "UTF-8"),
        (
            {"prevResult": None},
            "prevResult is missing",
            "chain it after the plugin that creates the interface",
        ),
        ({"prevResult": [RESULT]}, "prevResult", "object"),
        ({"prevResult": "{}"}, "prevResult", "object"),
    ],
)
def test_bad_configuration(changes: dict[str, Any], field: str, hint: str) -> None:
    error = refusal("ADD", configuration(**changes))
    assert error.code == contract.INVALID_CONFIGURATION
    assert error.msg.startswith(field)
    assert hint in error.details


@pytest.mark.parametrize(
    ("command", "required"), [("ADD", True), ("CHECK", True), ("DEL", False), ("GC", False)]
)
def test_null_for_previous_result_is_none(command: str, required: bool) -> None:
    raw = configuration(prevResult=None)[:-1] + b', "prevResult": null}'
    if required:
        assert "prevResult is missing" in refusal(command, raw).msg
    else:
        assert config.parse(command, config.read(raw)).previous == ""
