"""The corpus of manifests on which pydantic and the API server must agree. See tests/parity/corpus.

A case is written as what differs from the smallest good job: `spec` replaces whole fields of the spec, `manifest` whole
fields of the manifest, `without` removes one, `text` is a whole manifest. `wrong` names the field that both must blame,
and is absent from good cases; `server` is what the API server says instead, where it does not name the field in our way;
`operator-only` marks mistakes that no schema can express: the API server accepts, and the operator refuses.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainwright.manifests import load

CORPUS = Path(__file__).resolve().parents[1] / "parity" / "corpus"
UPDATES = "updates.yaml"


@dataclass(frozen=True)
class Case:
    """A manifest and what is to be said about it."""

    name: str
    manifest: Any
    text: str | None
    wrong: str | None
    server: str | None
    operator_only: bool


@dataclass(frozen=True)
class Update:
    """A change to a job that was started."""

    name: str
    was: dict[str, Any]
    change: dict[str, Any]
    wrong: str | None


def job(name: str = "job") -> dict[str, Any]:
    return {
        "apiVersion": "trainwright.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"name": "mlp"},
            "dataset": {"builtin": {"name": "iris"}},
            "training": {"epochs": 1},
        },
    }


def cases() -> list[Case]:
    return [
        _case(path.stem, entry)
        for path in sorted(CORPUS.glob("*.yaml"))
        if path.name != UPDATES
        for (entries,) in [load(path.read_text())]
        for entry in entries
    ]


def updates() -> list[Update]:
    (entries,) = load((CORPUS / UPDATES).read_text())
    return [
        Update(entry["name"], entry.get("was", {}), entry["change"], entry.get("wrong"))
        for entry in map(_known, entries)
    ]


def _case(topic: str, entry: dict[str, Any]) -> Case:
    _known(entry)
    manifest: Any = job()
    manifest["spec"] |= copy.deepcopy(entry.get("spec", {}))
    manifest |= copy.deepcopy(entry.get("manifest", {}))
    for path in entry.get("without", ()):
        *parents, last = path.split(".")
        inner = manifest
        for parent in parents:
            inner = inner[parent]
        del inner[last]
    return Case(
        name=f"{topic}: {entry['name']}",
        manifest=manifest,
        text=entry.get("text"),
        wrong=entry.get("wrong"),
        server=entry.get("server"),
        operator_only=entry.get("operator-only", False),
    )


def _known(entry: dict[str, Any]) -> dict[str, Any]:
    known = {"name", "spec", "manifest", "without", "text", "wrong", "server", "operator-only", "was", "change"}
    assert set(entry) <= known, f"{entry['name']}: unknown keys {set(entry) - known}"
    return entry
