"""Problems of pods whose labels or interfaces are not known, and refused starts that status remembers."""

from __future__ import annotations

from dataclasses import replace

from gateway_agent.policy.pods import unlabelled_pods

from .test_unattached_pods import KNOWN


def test_network_namespaces_that_cannot_be_seen_are_one_problem() -> None:
    unseen = [replace(KNOWN, name=name, netns="/run/netns/x", named=True) for name in ("b", "a")]
    [problem] = unlabelled_pods.unseen([*unseen, KNOWN])
    assert "of pod prod/a cannot be seen from here, and those of 1 more pods" in problem.message
    assert unlabelled_pods.unseen([KNOWN]) == ()


def test_refusals_are_remembered_for_a_while_and_are_bounded() -> None:
    refusals = unlabelled_pods.Refusals()
    for number in range(unlabelled_pods.MAX_REFUSALS + 1):
        refusals.note(unlabelled_pods.refused(replace(KNOWN, name=f"web-{number}"), ["a"]), 1.0)
    assert len(refusals.problems(1.0)) == unlabelled_pods.MAX_REFUSALS
    refusals.note(unlabelled_pods.refused(replace(KNOWN, name="web-9"), ["a"]), 2.0)
    assert len(refusals.problems(1.0 + unlabelled_pods.REMEMBERED_S)) == 1
    refusals.started(replace(KNOWN, name="web-9"))
    assert refusals.problems(1.0 + unlabelled_pods.REMEMBERED_S) == ()
    hostile = replace(KNOWN, name="\x1b[2J")
    refusals.note(unlabelled_pods.refused(hostile, ["a"]), 3.0)
    refusals.started(hostile)
    assert not any("2J" in problem.source for problem in refusals.problems(3.0))


def test_a_refused_start_names_the_policies_and_the_engine_s_reason() -> None:
    problem = unlabelled_pods.refused(KNOWN, ["a", "b"], "podman: no such container")
    assert problem.source == KNOWN.subject
    assert problem.message.endswith("policy a, b may select it (podman: no such container)")


def test_a_running_pod_keeps_its_tag_or_uses_no_gateway() -> None:
    assert "it uses no gateway" in unlabelled_pods.running(replace(KNOWN, group=0), ["a"]).message
    assert "it keeps its tag" in unlabelled_pods.running(replace(KNOWN, group=5), ["a"]).message
