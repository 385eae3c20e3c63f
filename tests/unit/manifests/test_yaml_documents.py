"""YAML text to documents: whatever a file holds ends in values or in a problem."""

from __future__ import annotations

import time

import pytest

from gateway_agent.manifests import parsing, yaml_documents

LAUGHTER = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000, "{a: " * 10_000, "!!bool foo", "!!timestamp x", "!!float x", "!!binary é", "!!omap [a]",
        "!!map a", "<<: 3", "? [a]\n: b", "&a [*a]", "&a {a: *a}", 'a: "\\ud800"', "!foo a", "a: \x01", "=",
        "!!null [a]", LAUGHTER, f"a: &a x\nb: [{'*a, ' * 1001}]",
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_a_problem(text: str) -> None:
    found, problems = yaml_documents.load("file.yaml", text)
    assert not found
    [problem] = problems
    assert problem.source == "file.yaml"
    assert problem.message.startswith("not YAML: ")


@pytest.mark.parametrize("text", ["9" * 5000, "0x" + "f" * 9000, ":".join(["59"] * 5000), '!!int ""'])
def test_a_number_that_cannot_be_shown_stays_a_text(text: str) -> None:
    [(_, value)], problems = yaml_documents.load("file.yaml", f"a: {text}")
    assert not problems
    assert isinstance(value["a"], str)


def test_a_number_in_base_60_takes_no_longer_than_any_other_text() -> None:
    began = time.process_time()
    [(_, value)], _ = yaml_documents.load("file.yaml", "a: " + ":".join(["59"] * 200_000))
    assert isinstance(value["a"], str)
    assert time.process_time() - began < 2.0


def test_what_was_read_is_read_again_from_its_copy() -> None:
    text = (
        'a: "2026-01-01"\nb: [1, "1", "yes", ~, 1.5, "\\x1b\\u2028é😀"]\n"9": {c: "0x10", d: &x [e], f: *x}\n'
    )
    [(_, value)], _ = yaml_documents.load("file.yaml", text)
    copy = yaml_documents.dump([value] * 2_000)
    assert "*" not in copy
    assert yaml_documents.load("file.yaml", copy) == ([("file.yaml", [value] * 2_000)], [])


def test_too_many_documents_are_a_problem() -> None:
    found, problems = yaml_documents.load("file.yaml", "--- x\n" * (yaml_documents.MAX_DOCUMENTS + 1))
    assert len(found) == yaml_documents.MAX_DOCUMENTS
    assert "more than 50000 documents" in problems[0].message


@pytest.mark.parametrize("text", ["a: [" + "1," * 1_500_001 + "]", "a: [\n" + "1,\n" * 750_001 + "]"])
def test_too_many_values_are_a_problem_at_once(text: str) -> None:
    began = time.process_time()
    found, [problem] = yaml_documents.load("file.yaml", text)
    assert not found
    assert "1500000 are allowed: make several files of it" in problem.message
    assert time.process_time() - began < 1.0


def test_a_few_aliases_and_many_stars_are_fine() -> None:
    text = "a: &a {b: c}\nb: [*a, *a]\nc: '" + " *x" * 5000 + "'\n"
    [(_, value)], problems = yaml_documents.load("file.yaml", text)
    assert not problems
    assert value["b"] == [{"b": "c"}, {"b": "c"}]


def test_a_file_name_with_control_characters_is_shown_escaped() -> None:
    [problem] = parsing.parse_file("evil\x1b[2J\n.yaml", "[").problems
    assert str(problem).isprintable()
    assert "evil\\x1b[2J\\n.yaml" in str(problem)


def test_a_prefix_length_of_thousands_of_digits_is_a_problem_of_its_object() -> None:
    text = f"""
apiVersion: egress-gateway.io/v1alpha1
kind: EgressGatewayPolicy
metadata: {{name: backend}}
spec:
  egressGatewayName: partner
  selectors: [{{podSelector: {{}}}}]
  destinationCIDRs: [10.0.0.0/{"9" * 5000}]
"""
    [problem] = parsing.parse_file("policy.yaml", text).problems
    assert problem.path == "spec.destinationCIDRs[0]"
    assert "0 to 32" in problem.hint
    assert len(problem.message) < 1000
