"""Define the form of metrics: names with our prefix, labels, samples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ...histogram import Histogram

PREFIX = "egress_gateway_"
MAX_REASON_CHARS = 200
DURATION = re.compile(r"\b[0-9]+(?:\.[0-9]+)? (?=ms\b|s\b)")


@dataclass(frozen=True)
class Sample:
    """One value of a metric."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""
    """Suffix of the name: a histogram has samples with three names."""


@dataclass(frozen=True)
class Family:
    """All samples of one metric. The name of a counter ends with ``_total``."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    samples: tuple[Sample, ...]


def gauge(name: str, text: str, samples: Iterable[Sample]) -> Family:
    """Return a metric that goes up and down."""
    return Family(PREFIX + name, "gauge", text, tuple(samples))


def counter(name: str, text: str, samples: Iterable[Sample]) -> Family:
    """Return a metric that only grows. ``name`` ends with ``_total``."""
    return Family(PREFIX + name, "counter", text, tuple(samples))


def reason_label(reason: str) -> str:
    """Return a reason as the value of a label: without durations, which would end the series each second."""
    return DURATION.sub("", reason)[:MAX_REASON_CHARS]


def histogram(
    name: str, text: str, of: Iterable[tuple[Mapping[str, str], Histogram]], unit: float = 1
) -> Family:
    """Return a metric of distributions. ``unit``: number of the histograms' units in a second."""
    return Family(
        PREFIX + name,
        "histogram",
        text,
        tuple(s for labels, found in of for s in _samples(labels, found, unit)),
    )


def _samples(labels: Mapping[str, str], found: Histogram, unit: float) -> Iterator[Sample]:
    bounds = [*(str(bound / unit) for bound in found.bounds), "+Inf"]
    for bound, count in zip(bounds, found.cumulated(), strict=True):
        yield Sample({**labels, "le": bound}, count, "_bucket")
    yield Sample(labels, found.number, "_count")
    yield Sample(labels, found.total / unit, "_sum")
