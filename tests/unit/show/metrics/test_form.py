"""The form of metrics: names, and histograms as the samples that Prometheus takes."""

from __future__ import annotations

from gateway_agent.histogram import Histogram
from gateway_agent.show.metrics.form import Sample, counter, gauge, histogram, reason_label


def test_names_have_our_prefix_and_their_kind() -> None:
    assert (gauge("pods", "", ()).name, gauge("pods", "", ()).kind) == ("egress_gateway_pods", "gauge")
    assert counter("rounds_total", "", ()).kind == "counter"


def test_a_histogram_is_cumulated_and_in_seconds() -> None:
    times = Histogram((10, 100))
    for milliseconds in (5, 50, 500):
        times = times.plus(milliseconds)
    family = histogram("call_seconds", "Time of a call.", [({"command": "ADD"}, times)], unit=1000)
    buckets = [(s.labels["le"], s.value) for s in family.samples if s.suffix == "_bucket"]
    assert buckets == [("0.01", 1), ("0.1", 2), ("+Inf", 3)]
    rest = {s.suffix: s.value for s in family.samples if s.suffix != "_bucket"}
    assert rest == {"_count": 3, "_sum": 0.555}
    assert all(sample.labels["command"] == "ADD" for sample in family.samples)


def test_samples_may_be_made_while_they_are_taken() -> None:
    family = gauge("pods", "", (Sample({}, number) for number in range(2)))
    assert [sample.value for sample in family.samples] == [0, 1]


def test_a_reason_is_one_series_while_its_durations_change() -> None:
    assert reason_label("late by 612 ms") == reason_label("late by 1.5 ms") == "late by ms"
    assert reason_label("upstream 10.0.0.254 does not answer") == "upstream 10.0.0.254 does not answer"
    assert len(reason_label("x" * 5000)) < 300
