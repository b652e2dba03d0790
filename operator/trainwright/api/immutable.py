"""Which fields of a job may not change once its workers were started, and how a change of one is noticed.

The API server's policy compares the old spec with the new one. The operator sees only what there is, so the status holds a
digest of each of these fields as it was at the start: where nobody installed the policy, a changed job is refused all the same.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, Final

from trainwright.api.base import camel
from trainwright.api.spec import TrainingJobSpec, WorkersSpec

REFUSAL: Final = "cannot change after the first start (create a new job instead)"
COUNT: Final = "workers.count"
COUNT_REFUSAL: Final = (
    "cannot change once steps were taken unless checkpoint.persistentVolumeClaim or checkpoint.uri is set: the state lies "
    "in worker 0's scratch space and would go with its pod"
)
BY_NAME: Final = frozenset({"workers.env", "workers.volumes"})
"""Lists whose items have a name: their order means nothing."""

_MUTABLE: Final = frozenset(
    {"suspend", "start_deadline_seconds", "active_deadline_seconds", "ttl_seconds_after_finished", "restart", "budget"}
)
"""Fields of the spec that may change after the first start; the others decide what is trained, and how."""
_MUTABLE_OF_WORKERS: Final = frozenset({"count", "min_count"})
"""Those of workers that may: how many there are decides how fast a job trains, not what."""


def fixed_fields() -> list[str]:
    """Return the path within the spec of every field that may not change once workers were started."""
    blocks = [camel(name) for name in TrainingJobSpec.model_fields if name not in _MUTABLE and name != "workers"]
    workers = [f"workers.{camel(name)}" for name in WorkersSpec.model_fields if name not in _MUTABLE_OF_WORKERS]
    return blocks + workers


def digests(spec: TrainingJobSpec) -> dict[str, str]:
    """Return a digest of every field that may not change and is not at its default, and of `workers.count`, by path."""
    return dict(_digests(spec.model_dump_json(by_alias=True, exclude_none=True)))


@lru_cache(maxsize=256)
def _digests(text: str) -> Mapping[str, str]:
    """Return the digests for a spec's JSON text. Every pass over a job asks for them, and they seldom change."""
    values = _by_path(json.loads(text))
    return {path: _digest(path, value) for path, value in values.items() if value != _defaults().get(path)}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the paths whose digests differ, those in only one of the two included."""
    return [path for path in _watched() if before.get(path) != now.get(path)]


@cache
def _watched() -> tuple[str, ...]:
    return (*fixed_fields(), COUNT)


@cache
def _defaults() -> Mapping[str, Any]:
    """Return what is in a spec that sets only what it must, by path."""
    fields = TrainingJobSpec.model_fields.items()
    unset = TrainingJobSpec.model_construct(
        **{name: field.default for name, field in fields if not field.is_required()}
    )
    return _by_path(unset.to_wire())


def _by_path(wire: Mapping[str, Any]) -> dict[str, Any]:
    values = {**wire, **{f"workers.{name}": value for name, value in wire["workers"].items()}}
    return {path: values[path] for path in _watched() if path in values}


def _digest(path: str, value: Any) -> str:
    if path in BY_NAME:
        value = sorted(value, key=lambda item: str(item["name"]))
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
