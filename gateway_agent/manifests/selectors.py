"""Parse label selectors into requirements."""

from __future__ import annotations

import re
from typing import Any

from cni.plan import Requirement

from .fields import Fields, Report, is_unicode, kind_of

OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
# Kubernetes, "Labels and Selectors", section "Syntax and character set".
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
MAX_NAME_CHARS = 253
"""Length of a DNS subdomain (RFC 1123)."""
SYNTAX = "63 letters, digits, '-', '_' and '.', a letter or digit at both ends"


def is_name(text: str) -> bool:
    """Return True if ``text`` can name an object: a DNS subdomain (RFC 1123) of at most 253 characters."""
    return len(text) <= MAX_NAME_CHARS and _SUBDOMAIN.fullmatch(text) is not None


def labels(value: Any, path: str, report: Report) -> dict[str, str]:
    """Return a map of labels. Keys and values that YAML does not read as text are reported and left out."""
    if not isinstance(value, dict):
        report.add(path, f"must be a map of labels, not {kind_of(value)}")
        return {}
    good: dict[str, str] = {}
    for key, found in value.items():
        if not isinstance(key, str):
            report.add(f"{path}.{key}", f"the key must be a text, not {kind_of(key)}", "quote it")
        elif not isinstance(found, str):
            report.add(f"{path}.{key}", f"must be a text, not {kind_of(found)}", "quote it")
        elif not is_unicode(key + found):
            report.add(f"{path}.{key}", f"{found!r} is no valid Unicode")
        else:
            good[key] = found
    return good


def requirements(fields: Fields) -> tuple[Requirement, ...]:
    """Return the requirements of ``matchLabels`` and ``matchExpressions``. Any other field is an error."""
    found: list[Requirement] = []
    equal = fields.raw("matchLabels")
    if equal is not None:
        found += _equalities(equal, fields.at("matchLabels"), fields.report)
    for path, item in fields.items("matchExpressions"):
        if isinstance(item, dict):
            found += _expression(Fields(item, path, fields.report))
        else:
            fields.report.add(path, f"must be a mapping, not {kind_of(item)}")
    fields.end()
    return tuple(found)


def node_requirements(fields: Fields) -> tuple[Requirement, ...]:
    """Return the requirements of a plain map of labels, or of a selector as in :func:`requirements`."""
    if "matchLabels" in fields.value or "matchExpressions" in fields.value:
        return requirements(fields)
    return _equalities(fields.value, fields.path, fields.report)


def _equalities(value: Any, path: str, report: Report) -> tuple[Requirement, ...]:
    wanted = labels(value, path, report)
    for key, value in wanted.items():
        _check_key(key, f"{path}.{key}", report)
        _check_value(value, f"{path}.{key}", report)
    return tuple(Requirement(key, "In", (value,)) for key, value in sorted(wanted.items()))


def _expression(fields: Fields) -> tuple[Requirement, ...]:
    key = fields.text("key", required=True)
    operator = fields.choice("operator", OPERATORS, required=True)
    values = []
    for path, value in fields.texts("values"):
        _check_value(value, path, fields.report)
        values.append(value)
    if key:
        _check_key(key, fields.at("key"), fields.report)
    if operator in ("In", "NotIn") and not fields.value.get("values"):
        fields.add("values", f"is required with {operator}")
    if operator in ("Exists", "DoesNotExist") and fields.value.get("values"):
        fields.add("values", f"has no meaning with {operator}", "leave it out")
    fields.end()
    return (Requirement(key, operator, tuple(values)),) if key and operator else ()


def _check_key(key: str, path: str, report: Report) -> None:
    prefix, slash, name = key.rpartition("/")
    if not _NAME.fullmatch(name) or (slash and not is_name(prefix)):
        hint = f"an optional DNS name and '/', then at most {SYNTAX}"
        report.add(path, f"{key!r} cannot be the key of a label", hint)


def _check_value(value: str, path: str, report: Report) -> None:
    if value and not _NAME.fullmatch(value):
        report.add(path, f"{value!r} cannot be the value of a label", f"at most {SYNTAX}")
