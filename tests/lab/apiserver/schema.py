"""What a server does with an object of a custom resource by its definition: prune, default, validate.

https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/. Of the CEL library for
addresses there is what our rules use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import celpy
import netaddr
import yaml
from celpy.adapter import json_to_cel
from celpy.celtypes import BoolType, StringType

from ..namespace import REPOSITORY

DEFINITIONS = REPOSITORY / "packaging" / "kubernetes" / "crds"
Schema = Mapping[str, Any]
_TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}


def schemas(directory: Path = DEFINITIONS) -> dict[str, Schema]:
    """By plural name, of the only version that each definition has."""
    found = {}
    for path in sorted(directory.glob("*.yaml")):
        definition = yaml.safe_load(path.read_text())
        if definition.get("kind") == "CustomResourceDefinition":
            [version] = definition["spec"]["versions"]
            found[definition["spec"]["names"]["plural"]] = version["schema"]["openAPIV3Schema"]
    return found


def admit(schema: Schema, value: Any, path: str = "") -> tuple[Any, list[str]]:
    """Return the object as it would be stored, and what is wrong with it: each time the field and why."""
    wanted = _TYPES[schema["type"]]
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        return value, [f"{path}: must be of type {schema['type']}"]
    problems = [f"{path}: {message}" for message in _broken(schema, value)]
    if isinstance(value, dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        value, found = _admit_fields(schema, value, path)
        problems += found
    elif isinstance(value, list):
        items = []
        for index, item in enumerate(value):
            admitted, found = admit(schema["items"], item, f"{path}[{index}]")
            items.append(admitted)
            problems += found
        value = items
    if not problems:
        # As the real server: rules are not asked about what has the wrong shape.
        problems += [f"{path}: {message}" for message in _against_rules(schema, value)]
    return value, problems


def _admit_fields(schema: Schema, value: Mapping[str, Any], path: str) -> tuple[dict[str, Any], list[str]]:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    kept: dict[str, Any] = {}
    problems = []
    for name, child in {
        **{name: others for name in value if others and name not in properties},
        **properties,
    }.items():
        if value.get(name) is None and "default" in child:
            kept[name] = child["default"]
        elif value.get(name) is not None:
            if name == "metadata" and not path:
                kept[name] = value[name]
                continue
            kept[name], found = admit(child, value[name], f"{path}.{name}" if path else name)
            problems += found
    problems += [f"{path}.{name}: Required value" for name in schema.get("required", ()) if name not in kept]
    return kept, problems


def _broken(schema: Schema, value: Any) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"Unsupported value: {value!r}: supported values: {schema['enum']}"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"should match {schema['pattern']!r}"
    if "minimum" in schema and value < schema["minimum"]:
        yield f"should be greater than or equal to {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        yield f"should be less than or equal to {schema['maximum']}"
    for low, high in (
        ("minLength", "maxLength"),
        ("minItems", "maxItems"),
        ("minProperties", "maxProperties"),
    ):
        if len(value) < schema.get(low, 0) if low in schema else False:
            yield f"{low} is {schema[low]}"
        if len(value) > schema[high] if high in schema else False:
            yield f"{high} is {schema[high]}"
    if schema.get("x-kubernetes-list-type") == "set" and len(set(map(str, value))) < len(value):
        yield "Duplicate value"


def _against_rules(schema: Schema, value: Any) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if not _program(rule["rule"]).evaluate({"self": json_to_cel(value)}):
            yield rule["message"]


@lru_cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    functions: dict[str, Any] = {"isIP": _is_ip, "isCIDR": _is_cidr, "cidr": StringType, "masked": _masked}
    return environment.program(environment.compile(rule), functions=functions)


def _is_ip(text: str) -> BoolType:
    return BoolType(netaddr.valid_ipv4(str(text)) or netaddr.valid_ipv6(str(text)))


def _is_cidr(text: str) -> BoolType:
    address, slash, length = str(text).partition("/")
    width = 128 if ":" in address else 32
    return BoolType(
        bool(slash and _is_ip(StringType(address)) and length.isdecimal() and int(length) <= width)
    )


def _masked(text: str) -> StringType:
    # Both sides of && are computed.
    return StringType(str(netaddr.IPNetwork(str(text)).cidr) if _is_cidr(text) else "")
