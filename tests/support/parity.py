"""The corpus of manifests on which pydantic and the API server must agree. See tests/parity/corpus.

A case is written as what differs from the smallest good job: `spec` replaces whole fields of the spec, `manifest` whole
fields of the manifest, `without` removes one, `text` is a whole manifest. `wrong` names the field that both must blame,
and is absent from good cases; `server` is what the API server says instead, where it does not name the field in our way;
`operator-only` marks mistakes that no schema can express: the API server accepts, and the operator refuses.
"""

# nothing here is secret

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from trainwright.api.immutable import placement_fields
from trainwright.api.job import InvalidJobError, read_manifest
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

    @property
    def is_placement(self) -> bool:
        """Whether what may not change is where the workers run, which may while none runs."""
        return self.wrong is not None and self.wrong.removeprefix("spec.") in placement_fields()


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


def mistakes(manifest: Any) -> dict[str, str]:
    """Return what pydantic has against a manifest, by field."""
    try:
        read_manifest(manifest)
    except InvalidJobError as error:
        return {mistake.field: mistake.message for mistake in error.errors}
    return {}


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


_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 64, 1_000_001, 2**31, 2**63, 2**70, 0.5, 1.0, -0.0, 1e-9, 1e300),
    *("", "a", "Ä", "a b", "relu", "sgd", "step", "regression", "..", "a/../b", "/etc/x", "/data", "\n", "\0"),
    *("1Gi", "-1", "1e3", "0x10", "y", "null", "<<", "*", "a" * 70, "a" * 400),
    *([], {}, [1], ["a"], [[]], [None], {"a": 1}, {"": 1}, {"a": None}, {"name": "x"}, {"a b": "c"}),
)
_NAMES = ("extra", "name", "kind", "epochs", "steps", "momentum", "args", "layers")


def mutant(random: Random, manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one of the manifests with one to three things changed in its spec: sometimes still good, mostly bad."""
    manifest = copy.deepcopy(random.choice(manifests))
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(manifest["spec"]))
        if places:
            parent, key = random.choice(places)
            _change(random, parent, key, manifests)
    return manifest


def _change(random: Random, parent: Any, key: Any, manifests: list[dict[str, Any]]) -> None:
    match random.choice(("near", "near", "any", "any", "gone", "other", "more")):
        case "near":
            parent[key] = _near(random, parent[key])
        case "any":
            parent[key] = copy.deepcopy(random.choice(_VALUES))
        case "gone":
            del parent[key]
        case "other":
            donor, name = random.choice(list(_places(random.choice(manifests)["spec"])))
            parent[key] = copy.deepcopy(donor[name])
            if isinstance(parent, dict) and isinstance(name, str):
                parent[name] = copy.deepcopy(donor[name])
        case "more" if isinstance(parent, dict):
            parent[random.choice(_NAMES)] = copy.deepcopy(random.choice(_VALUES))
        case "more":
            parent.insert(0, copy.deepcopy(random.choice(_VALUES)))


def _near(random: Random, value: Any) -> Any:
    """Return something almost like the value: what lies at a bound or beside a pattern."""
    if isinstance(value, str):
        return random.choice(
            (f"{value}x", value[:-1], value.upper(), f"{value}.", f"{value}/", f"/{value}", f"{value} ", value * 3)
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        return random.choice(
            (value + 1, value - 1, value * 2, -value, value / 2, float(value), str(value), value + 0.5)
        )
    return copy.deepcopy(random.choice(_VALUES))


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place below a node, as what holds it and under which key."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from _places(node[key])
