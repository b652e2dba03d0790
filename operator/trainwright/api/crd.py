"""The CustomResourceDefinition, generated from the types: fields, types, bounds, choices and defaults.

The API server validates the whole object on every status write too, so expensive checks are kept out of the CRD. Rules
between fields are in the admission policy, which sees only writes of the spec. The status and most blocks of the spec are
atomic: one field manager owns the whole block, so managedFields does not list and compare every field on each write.
"""

from typing import Any, Final

from trainwright.api.job import NAME_LENGTH, NAME_PATTERN
from trainwright.api.names import CLASS_KIND, CLASS_PLURAL, GROUP, KIND, PLURAL, SHORT_NAME, SINGULAR, VERSION
from trainwright.api.schema import RULES, Schema, schema_of, without
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import TrainingJobStatus
from trainwright.api.training_class import TrainingClassSpec

_ATOMIC: Final = {"x-kubernetes-map-type": "atomic"}
_SHARED: Final = frozenset({"workers"})
"""Blocks of the spec that two field managers may share: an autoscaler owns only workers.count."""

_TYPE_META: Final = {
    "apiVersion": {
        "type": "string",
        "description": f"{GROUP}/{VERSION}: the version of the API that this object is written in.",
    }
}
_COLUMNS: Final = (
    ("State", "string", ".status.phase", 0, "Phase of the job."),
    ("Progress", "string", ".status.summary.progress", 0, "Percentage of the steps done."),
    ("ETA", "string", ".status.summary.eta", 0, "Time left."),
    ("Loss", "string", ".status.summary.loss", 0, "Training loss."),
    ("Workers", "string", ".status.summary.workers", 0, "Ready and desired workers."),
    ("Restarts", "integer", ".status.restarts", 0, "Restarts after failures."),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Time since the job was created."),
    ("Step", "integer", ".status.progress.step", 1, "Optimizer steps done."),
    ("Metric", "string", ".status.summary.metric", 1, "Main metric of the newest evaluation."),
    ("Throughput", "string", ".status.summary.throughput", 1, "Samples per second."),
    ("Reason", "string", ".status.reason", 1, "Machine-readable reason for the state."),
)


def spec_schema() -> Schema:
    """Return the schema of a job's spec, with its rules."""
    return schema_of(TrainingJobSpec, "What to train, on what, how, and with which workers.")


def crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition of TrainingJob, as plain JSON types, in the usual order of keys."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(*column) for column in _COLUMNS],
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def class_spec_schema() -> Schema:
    """Return the schema of a class's spec, with its rules."""
    return schema_of(TrainingClassSpec, "Defaults, limits and allowlists for the jobs of the class.")


def class_crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition of TrainingClass. Classes have no status, so it contains the rules between fields."""
    default = ("Default", "boolean", ".spec.default", 0, "Whether it is the class of jobs that name none.")
    age = ("Age", "date", ".metadata.creationTimestamp", 0, "Time since the class was created.")
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{CLASS_PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": CLASS_KIND,
                "listKind": f"{CLASS_KIND}List",
                "plural": CLASS_PLURAL,
                "singular": CLASS_KIND.lower(),
                "shortNames": ["tclass"],
            },
            "scope": "Cluster",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [_column(*default), _column(*age)],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": "A TrainingClass sets defaults, limits and allowlists for TrainingJobs.",
                            "required": ["spec"],
                            "properties": {
                                **_TYPE_META,
                                "kind": {"type": "string", "description": f"{CLASS_KIND}."},
                                "metadata": {"type": "object"},
                                "spec": class_spec_schema(),
                            },
                        }
                    },
                }
            ],
        },
    }


def _column(name: str, kind: str, path: str, priority: int, description: str) -> Schema:
    column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | {"priority": priority} if priority else column


def _root() -> Schema:
    return {
        "type": "object",
        "description": "A TrainingJob trains one PyTorch model on the data it names, with the workers it asks for. "
        "Its status shows the progress, the metrics, the estimated end, and the reason if the job does not run.",
        "required": ["spec"],
        "properties": {
            **_TYPE_META,
            "kind": {"type": "string", "description": f"{KIND}."},
            # Kubernetes describes metadata itself and allows no description here.
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": NAME_LENGTH, "pattern": NAME_PATTERN}},
            },
            "spec": _spec(),
            "status": _status(),
        },
    }


def _spec() -> Schema:
    spec = without(RULES, spec_schema())
    blocks = [block for name, block in spec["properties"].items() if "properties" in block and name not in _SHARED]
    for block in blocks:
        block.update(_ATOMIC)
    return spec


def _status() -> Schema:
    """Return the schema of the status, without defaults: the operator writes the whole status, so an absent field has no value."""
    schema = schema_of(TrainingJobStatus, "The observed state of the job. Only the operator writes it.")
    return without("default", schema) | _ATOMIC
