"""What `manifests/crd.yaml` holds, and where on an API server each of it is created."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainwright.manifests import load

PATHS = {
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "ValidatingAdmissionPolicy": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}
JOBS = "/apis/trainwright.dev/v1alpha1/namespaces/{namespace}/trainingjobs"
_FILE = Path(__file__).resolve().parents[2] / "manifests" / "crd.yaml"


def definitions() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object with the path of its collection."""
    for manifest in load(_FILE.read_text()):
        yield PATHS[manifest["kind"]], manifest


def contradiction(name: str = "contradiction") -> dict[str, Any]:
    """Return a job that breaks no bound, only a rule: once it is refused, the policy is in force."""
    return {
        "apiVersion": "trainwright.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"name": "mlp"},
            "dataset": {"builtin": {"name": "iris"}},
            "training": {"epochs": 1, "steps": 1},
        },
    }
