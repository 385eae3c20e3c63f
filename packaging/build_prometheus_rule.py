"""Write the alerts as a ``PrometheusRule``, from the one source of both: ``packaging/monitoring/alerts.yaml``."""

from __future__ import annotations

from pathlib import Path

MONITORING = Path(__file__).parent / "monitoring"
SOURCE, TARGET = MONITORING / "alerts.yaml", MONITORING / "prometheusrule.yaml"
HEAD = """\
# Written by packaging/build_prometheus_rule.py from alerts.yaml. Do not edit.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: egress-gateway
  namespace: egress-gateway
spec:
"""


def text() -> str:
    """Return the content of the object: the rules, indented."""
    rules = (line for line in SOURCE.read_text().splitlines() if not line.startswith("#"))
    return HEAD + "".join(f"  {line}\n" for line in rules)


if __name__ == "__main__":
    TARGET.write_text(text())
