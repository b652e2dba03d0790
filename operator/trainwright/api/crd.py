"""The CustomResourceDefinition, generated from the types: fields, types, bounds, choices and defaults.

The API server judges all of it with every write of a status, too, so what costs much stands elsewhere: rules between fields
in the policy, which sees only writes of the spec; and whoever writes a block of the spec, or the status, owns the whole of it,
so that no list of all their fields is kept and compared with every write.
"""

from typing import Any, Final

from trainwright.api.job import NAME_LENGTH, NAME_PATTERN
from trainwright.api.names import GROUP, KIND, PLURAL, SHORT_NAME, SINGULAR, VERSION
from trainwright.api.schema import RULES, Schema, schema_of, without
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import TrainingJobStatus

_ATOMIC: Final = {"x-kubernetes-map-type": "atomic"}
_SHARED: Final = frozenset({"workers"})
"""Blocks of the spec of which two appliers may each own a part: one that scales a job owns workers.count alone."""

_COLUMNS: Final = (
    ("State", "string", ".status.phase", 0, "Where the job is in its life."),
    ("Progress", "string", ".status.summary.progress", 0, "Percent of the steps done."),
    ("ETA", "string", ".status.summary.eta", 0, "Time left."),
    ("Loss", "string", ".status.summary.loss", 0, "Training loss."),
    ("Workers", "string", ".status.summary.workers", 0, "Ready and desired workers."),
    ("Restarts", "integer", ".status.restarts", 0, "Restarts after failures."),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Time since the job was created."),
    ("Step", "integer", ".status.progress.step", 1, "Optimizer steps done."),
    ("Metric", "string", ".status.summary.metric", 1, "Main metric of the newest evaluation."),
    ("Throughput", "string", ".status.summary.throughput", 1, "Samples per second."),
    ("Reason", "string", ".status.reason", 1, "Why the job is in this state, in one word."),
)


def spec_schema() -> Schema:
    """Return the schema of a job's spec, with its rules."""
    return schema_of(TrainingJobSpec, "What to train, on what, how, and with which workers.")


def crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition of TrainingJob, as plain JSON types in the order that reads best."""
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


def _column(name: str, kind: str, path: str, priority: int, description: str) -> Schema:
    column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | {"priority": priority} if priority else column


def _root() -> Schema:
    return {
        "type": "object",
        "description": "A TrainingJob trains one PyTorch model on the data it names, with the workers it asks for. "
        "Its status tells how far it is, how well it learns, when it will end, and why it does not run.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {
                "type": "string",
                "description": f"{GROUP}/{VERSION}: the version of the API that this object is written in.",
            },
            "kind": {"type": "string", "description": f"{KIND}."},
            # Kubernetes describes it itself, and allows no description here.
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
    """Return the schema of the status, without defaults: the operator writes it whole, so what is absent was not said."""
    schema = schema_of(TrainingJobStatus, "What the operator says about the job; it alone writes it.")
    return without("default", schema) | _ATOMIC
