"""What becomes of an object by its definition, in the opinion of a server. Nothing is stored."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..documents import Document
from .client import Cluster, path_of
from .origin import Object
from .schema import admit, schemas
from .upstream import define, reached

Verdict = tuple[Object, list[str]]
"""The object as it would be stored, and the problems found in it."""


class Judge:
    """Our own reading of the definitions, and that of a real server where there is one; both must agree."""

    rules = True
    """True if the server knows CEL: real ones do from 1.25 on."""

    def __init__(self, real: Cluster | None = None) -> None:
        self._schemas = schemas()
        self._real = real
        if real is not None:
            self.rules = all(
                "x-kubernetes-validations" in str(stored["spec"]["versions"]) for stored in define(real)
            )

    def __call__(self, document: Document) -> Verdict:
        plural = path_of(document).split("/")[-2]
        stored, problems = admit(self._schemas[plural], document)
        if self._real is None:
            return stored, problems
        path = path_of(document).rpartition("/")[0]
        status, answer = self._real.ask("POST", f"{path}?dryRun=All", document)
        if status >= http.client.INTERNAL_SERVER_ERROR:
            raise RuntimeError(f"{path}: {status}: {answer}")
        refused = status >= http.client.BAD_REQUEST
        assert self.disputed(document) or refused == bool(problems), f"we: {problems}, the server: {answer}"
        return ({}, [answer["message"]]) if refused else ({**document, "spec": answer["spec"]}, [])

    def disputed(self, document: Document) -> bool:
        """Whether only rules have something against it, and the server does not know any."""
        plural = path_of(document).split("/")[-2]
        return not self.rules and not admit(_without_rules(self._schemas[plural]), document)[1]


@contextlib.contextmanager
def judging(directory: Path) -> Iterator[Judge]:
    with reached(directory / "upstream.sock") as upstream:
        yield Judge(Cluster(upstream) if upstream else None)


def _without_rules(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            name: _without_rules(item) for name, item in schema.items() if name != "x-kubernetes-validations"
        }
    return [_without_rules(item) for item in schema] if isinstance(schema, list) else schema
