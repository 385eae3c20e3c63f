"""YAML documents to objects, and everything that can be wrong with them."""

from __future__ import annotations

import pytest

from cni.plan import PodIdentity, Requirement, Selector
from gateway_agent.manifests import parsing
from gateway_agent.manifests.model import (
    Inventory,
    Problem,
)

from .manifest_texts import GATEWAY, NODE, POLICY, VIRTUAL, parse


@pytest.mark.parametrize(
    "version",
    [
        "egress-gateway.io/v1", "egressgateway.io/v1alpha1", "egress-gatway.io/v1alpha1", "v1alpha1", "v1", "",
        "network.deckhouse.io/v1beta1", "Egress-Gateway.io/v1alpha1", "egress-gateway.io", "egress_gateway.io/v1alpha1",
    ],
)  # fmt: skip
def test_a_version_that_looks_like_ours_is_a_problem(version: str) -> None:
    inventory = parse(GATEWAY.replace("egress-gateway.io/v1alpha1", f'"{version}"'))
    assert [problem.path for problem in inventory.problems] == ["apiVersion"]
    assert inventory.gateways == ()


@pytest.mark.parametrize(
    "version", ["projectcalico.org/v3", "egressgateway.spidernet.io/v1beta1", "kubeovn.io/v1"]
)
def test_kinds_of_the_same_name_of_other_projects_are_passed_over(version: str) -> None:
    assert parse(GATEWAY.replace("egress-gateway.io/v1alpha1", version)) == Inventory()


@pytest.mark.parametrize(
    ("old", "new", "path"), [("apiVersion: v1\n", "", "apiVersion"), ("kind: Node", "kind: node", "kind")]
)
def test_a_slip_in_a_kind_of_kubernetes_is_a_problem(old: str, new: str, path: str) -> None:
    assert [problem.path for problem in parse(NODE.replace(old, new)).problems] == [path]


def test_a_list_or_a_file_without_end_is_one_problem() -> None:
    prefixes = ", ".join(["x"] * 70_000)
    [problem] = parse(POLICY.replace("[203.0.113.0/24]", f"[{prefixes}]"), GATEWAY).problems
    assert (problem.path, problem.message) == ("spec.destinationCIDRs", "has 70000 items; 65536 are allowed")
    assert len(parse("--- 1\n" * 5000).problems) == parsing.MAX_PROBLEMS_PER_FILE + 1


def test_deckhouse_documents_mean_the_same() -> None:
    ours = parse(GATEWAY, POLICY, VIRTUAL)
    theirs = parse(
        *(t.replace("egress-gateway.io", "network.deckhouse.io") for t in (GATEWAY, POLICY, VIRTUAL))
    )
    assert theirs == ours
    assert not theirs.problems


def test_namespace_selector_and_pod_and_namespace_documents() -> None:
    inventory = parse(
        """
        apiVersion: v1
        kind: List
        items:
        - {apiVersion: v1, kind: Namespace, metadata: {name: prod, labels: {team: pay}}}
        - {apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: prod, labels: {app: web}}, spec: {x: 1}}
        - {apiVersion: v1, kind: Pod, metadata: {name: lone}}
        """,
        GATEWAY,
        POLICY.replace(
            "  - podSelector: {matchLabels: {app: backend}}",
            "  - podSelector: {}\n    namespaceSelector: {matchLabels: {team: pay}}",
        ),
    )
    assert not inventory.problems
    assert inventory.namespaces == {"prod": {"team": "pay"}}
    assert inventory.pods == (
        PodIdentity("default", "lone", {}),
        PodIdentity("prod", "web-0", {"app": "web"}),
    )
    assert inventory.policies[0].selectors == (Selector((), (Requirement("team", "In", ("pay",)),)),)


def test_other_kinds_are_passed_over() -> None:
    inventory = parse(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}}", "---\n---\n", "# nothing\n"
    )
    assert inventory == Inventory()


def test_one_bad_object_leaves_the_others_alone() -> None:
    text = GATEWAY + "---" + POLICY.replace("203.0.113.0/24", "nonsense") + "---" + VIRTUAL
    content = parsing.parse_file("all.yaml", text)
    assert [(o.kind, o.name) for o in content.objects] == [
        ("EgressGateway", "partner"),
        ("EgressGateway", "bank"),
    ]
    assert content.broken
    assert content.problems[0].source == "all.yaml (document 2)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "not YAML: line 2, column 1: the key 'a' is given twice"),
        ("a: [1\n", "not YAML: line 2, column 1: did not find expected ',' or ']'"),
        ("a: !!python/object:os.system {}\n",
         "not YAML: line 1, column 4: could not determine a constructor for the tag"),
        ("a: \x00b", "not YAML: control characters are not allowed"),
        ("[1, 2]", "is no Kubernetes object: a list instead of a mapping"),
        ("x: 0x" + "f" * 9000, "is required"),
        ("[" * 5000, "not YAML: "),
        ("kind: EgressGateway\nmetadata: {name: x}", "is required"),
        ("apiVersion: v1\nmetadata: {name: x}", "is required"),
        ("&a [*a]", "not YAML: an alias refers to a value that contains it"),
    ],
)  # fmt: skip
def test_what_is_no_manifest(text: str, message: str) -> None:
    content = parsing.parse_file("f.yaml", text)
    assert content.broken
    assert content.problems[0].message.startswith(message)


def test_a_list_that_holds_itself_ends() -> None:
    content = parsing.parse_file(
        "f.yaml", "apiVersion: v1\nkind: List\nitems: &i [{kind: List, items: *i}]\n"
    )
    assert content.objects == ()


def test_documents_before_a_syntax_error_are_kept_but_the_file_is_broken() -> None:
    content = parsing.parse_file("f.yaml", GATEWAY + "---\na: [\n")
    assert [o.name for o in content.objects] == ["partner"]
    assert content.broken


def test_second_object_of_one_name_is_reported_and_the_first_by_file_name_counts() -> None:
    second = GATEWAY.replace("eth1", "eth2").replace("egress-gateway.io", "network.deckhouse.io")
    contents = {
        "b.yaml": parsing.parse_file("b.yaml", second),
        "a.yaml": parsing.parse_file("a.yaml", GATEWAY),
    }
    inventory = parsing.assemble(contents)
    assert [g.interface for g in inventory.gateways] == ["eth1"]
    message = "EgressGateway 'partner' is defined in a.yaml too"
    assert inventory.problems == (Problem("b.yaml", "metadata.name", message, "the first one counts"),)


def test_pods_of_two_namespaces_may_share_a_name() -> None:
    pod = "{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: %s}}"
    assert not parse(pod % "a", pod % "b").problems
    assert parse(pod % "a", pod % "a").problems


def test_policy_that_names_no_gateway_stays_and_is_reported() -> None:
    inventory = parse(POLICY.replace("Name: partner", "Name: partnr"), GATEWAY)
    assert [p.gateway for p in inventory.policies] == ["partnr"]
    assert inventory.problems == (
        Problem("0.yaml", "spec.egressGatewayName",
                "there is no EgressGateway 'partnr': what the policy selects is dropped", "did you mean 'partner'?"),
    )  # fmt: skip
