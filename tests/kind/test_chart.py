"""The chart in a real cluster: it says that it is well, and may do what it needs and no more."""

import kube
import pytest

ACCOUNT = "system:serviceaccount:trainwright-system:trainwright"


def may(verb, resource, *flags):
    """Return whether the operator may do this."""
    answer = kube.run("bash", "-c", 'kubectl auth can-i "$@" || true', "-", verb, resource, f"--as={ACCOUNT}", *flags)
    return answer.strip() == "yes"


def test_helm_test_passes(operator):
    said = kube.helm("test", "trainwright", f"--namespace={operator}", "--timeout=120s")
    assert "Succeeded" in said


@pytest.mark.parametrize(
    ("verb", "resource", "flags"),
    [
        ("list", "secrets", []),
        ("watch", "secrets", []),
        ("get", "secrets/another", []),
        ("delete", "secrets/trainwright-reports-ca", []),
        ("get", "configmaps", []),
        ("delete", "services", []),
        ("create", "pods", ["--subresource=exec"]),
        ("get", "pods", ["--subresource=log"]),
        ("update", "pods", []),
        ("create", "trainingjobs.trainwright.dev", []),
        ("update", "trainingjobs.trainwright.dev", []),
        ("delete", "podgroups.scheduling.k8s.io", []),
        ("update", "podgroups.scheduling.k8s.io", []),
        ("create", "workloads.kueue.x-k8s.io", []),
        ("list", "namespaces", []),
        ("list", "nodes", []),
        ("create", "deployments.apps", []),
        ("create", "clusterrolebindings.rbac.authorization.k8s.io", []),
        ("impersonate", "serviceaccounts", []),
    ],
)
def test_what_the_operator_may_not_do(operator, verb, resource, flags):
    assert not may(verb, resource, "--namespace=default", *flags)
    assert not may(verb, resource, f"--namespace={operator}", *flags)


def test_the_only_secret_it_reads_is_its_own(operator):
    assert may("get", "secrets/trainwright-reports-ca", f"--namespace={operator}")
    assert not may("get", "secrets/trainwright-reports-ca", "--namespace=default")


def test_people_with_the_role_edit_may_train_and_those_with_view_may_look(operator):
    roles = {name: kube.kubectl_json("get", "clusterrole", name)["rules"] for name in ("view", "edit")}

    def verbs(role):
        rules = [rule for rule in roles[role] if "trainingjobs" in rule.get("resources", ())]
        return {verb for rule in rules for verb in rule["verbs"]}

    assert verbs("view") == {"get", "list", "watch"}
    assert verbs("edit") >= {"get", "list", "watch", "create", "update", "patch", "delete"}
