"""Which fields of a job may not change after its workers have started, or not while they run, and how a change is detected.

The admission policy compares the old spec with the new one. The operator sees only the current spec, so the status holds a
digest of each of these fields as of the start. The operator can thus refuse a changed job even if the policy is not installed.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, Final

from trainwright.api.base import camel
from trainwright.api.spec import TrainingJobSpec, WorkersSpec

REFUSAL: Final = "cannot change after the first start (create a new job instead)"
PLACEMENT_REFUSAL: Final = (
    "can change only while the job is suspended: set spec.suspend: true, in the same edit or before"
)
COUNT: Final = "workers.count"
COUNT_REFUSAL: Final = (
    "cannot change after the first training step unless checkpoint.persistentVolumeClaim or checkpoint.uri is set: the "
    "state is in worker 0's scratch space and would be lost with its pod"
)
BY_NAME: Final = frozenset({"workers.env", "workers.volumes"})
"""Lists whose items are identified by name, so that their order does not matter."""

_MUTABLE: Final = frozenset(
    {"suspend", "start_deadline_seconds", "active_deadline_seconds", "ttl_seconds_after_finished", "restart", "budget"}
)
"""Fields of the spec that may change at any time. The others decide what is trained and how, or where."""
_PLACEMENT: Final = ("scheduling", "tracking")
"""Fields of the spec that decide where and how pods run, and who hears of it: they may change between two runs."""
_MUTABLE_OF_WORKERS: Final = frozenset({"count", "min_count"})
"""Fields of workers that may change at any time: the number of workers affects the speed, not the result."""
_FIXED_OF_WORKERS: Final = frozenset({"processes_per_worker"})
"""Fields of workers that may not change. All others are placement."""


def fixed_fields() -> list[str]:
    """Return the path within the spec of every field that may not change after the workers have started."""
    others = {*_MUTABLE, *_PLACEMENT, "workers"}
    blocks = [camel(name) for name in TrainingJobSpec.model_fields if name not in others]
    return blocks + [f"workers.{camel(name)}" for name in WorkersSpec.model_fields if name in _FIXED_OF_WORKERS]


def placement_fields() -> list[str]:
    """Return the path within the spec of every field that may change only while no worker runs."""
    others = _MUTABLE_OF_WORKERS | _FIXED_OF_WORKERS
    workers = [f"workers.{camel(name)}" for name in WorkersSpec.model_fields if name not in others]
    return [camel(name) for name in _PLACEMENT] + workers


def digests(spec: TrainingJobSpec) -> dict[str, str]:
    """Return a digest of every field that may not always change and is not at its default, by path.

    Defaults inside a field are left out too, so that a field which a later version adds changes no digest.
    """
    return dict(_digests(spec.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True)))


@lru_cache(maxsize=256)
def _digests(text: str) -> Mapping[str, str]:
    """Return the digests for a spec's JSON text. Cached, since every reconcile pass needs them and specs rarely change."""
    wire = json.loads(text)
    values = {**wire, **{f"workers.{name}": value for name, value in wire.get("workers", {}).items()}}
    return {path: _digest(path, values[path]) for path in _watched() if path in values}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the paths whose digests differ or exist on one side only."""
    return [path for path in _watched() if before.get(path) != now.get(path)]


@cache
def _watched() -> tuple[str, ...]:
    return (*fixed_fields(), *placement_fields(), COUNT)


def _digest(path: str, value: Any) -> str:
    if path in BY_NAME:
        value = sorted(value, key=lambda item: str(item["name"]))
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
