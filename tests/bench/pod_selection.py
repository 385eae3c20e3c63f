"""The time to find the policies of a node's pods: by the plan, as the plugin does for one pod, and by the index.

``python -m tests.bench.pod_selection [--policies N] [--pods N]``
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from cni.plan import Plan, PlanPolicy, PodIdentity, Requirement, Selector
from gateway_agent.policy.pods.selection import Selection

ROUNDS = 9


def median_ms(work: Callable[[], object]) -> float:
    """Return the median time of the work, milliseconds."""
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times)


def main() -> None:
    """Print both times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=300)
    parser.add_argument("--pods", type=int, default=250)
    options = parser.parse_args()
    policies = tuple(
        PlanPolicy(f"p{number}", "g", (Selector((Requirement("app", "In", (f"a{number}",)),)),))
        for number in range(options.policies)
    )
    plan = Plan("w1", 0x0FF00000, 4799, 1450, (), (), policies)
    pods = [PodIdentity("prod", f"web-{number}", {"app": f"a{number}"}) for number in range(options.pods)]

    def by_index() -> list[object]:
        selection = Selection(plan)
        return [selection.policies_for(pod) for pod in pods]

    print(f"{options.policies} policies, {options.pods} pods, median of {ROUNDS} rounds")
    print(f"by the plan: {median_ms(lambda: [plan.policies_for(pod) for pod in pods]):.1f} ms")
    print(f"by the index, with making it: {median_ms(by_index):.1f} ms")


if __name__ == "__main__":
    main()
