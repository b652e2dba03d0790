"""TrainingClasses: which class a job has, what it fills in, what it refuses, and whether the job's namespace has room for it.

This is the only place that knows of classes. The other policies see the effective spec: the user's spec with what the class
filled in. What was filled in is recorded with the first start and holds from then on, so that a changed or deleted class
disturbs no started job.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from trainwright.api.class_rules import Wire, at, not_allowed, too_large
from trainwright.api.devices import count_gpus
from trainwright.api.immutable import changes, digests
from trainwright.api.job import FieldError, InvalidJobError, api_defaults, read_spec
from trainwright.api.names import CLASS_LABEL
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import AppliedClass, Phase, TrainingJobStatus
from trainwright.api.training_class import ClassPods, TrainingClassSpec
from trainwright.plan.types import Neighbour, Observed, TrainingClass

LOOK_AGAIN: Final = 5.0
"""Seconds after which a job that waits because of its class is looked at again."""
NOT_ALLOWED: Final = "NotAllowed"
_LOCATIONS: Final = ("checkpoint.persistentVolumeClaim", "checkpoint.uri")
_GPUS: Final = "workers.resources.limits"


@dataclass(frozen=True)
class Terms:
    """What a class means for one job.

    Attributes:
        observed: The observation, with the effective spec in place of the user's.
        applied: The class and what it filled in, or None if the job has none.
        refusal: Why the class refuses the job, as (reason, message), or None.
        full: Why the job has to wait for others of its namespace, or None.
    """

    observed: Observed
    applied: AppliedClass | None = None
    refusal: tuple[str, str] | None = None
    full: str | None = None


def resolve(observed: Observed) -> Terms:
    """Return what its class means for the job."""
    job = observed.job
    if isinstance(job.spec, InvalidJobError):
        return Terms(observed)
    ended = job.deleting or (job.status.phase is not None and job.status.phase.terminal)
    if job.status.attempt > 0 or ended:
        return _recorded(observed, job.spec)
    chosen = _choose(job.spec.class_, observed)
    if not isinstance(chosen, TrainingClass):
        return Terms(observed, refusal=chosen)
    if isinstance(chosen.spec, str):
        return Terms(observed, refusal=("InvalidClass", f"TrainingClass {chosen.name} is invalid: {chosen.spec}"))
    user = job.spec.to_wire()
    refused = not_allowed(chosen.name, chosen.spec, job.namespace, user)
    applied = AppliedClass(
        name=chosen.name,
        filled=_as_text(_filled(user, _flat(chosen.spec))),
        pods=chosen.spec.pods.model_dump_json(by_alias=True, exclude_none=True) if chosen.spec.pods else None,
    )
    terms = _with_defaults(observed, job.spec, applied)
    if not isinstance(terms.observed.job.spec, InvalidJobError):
        refused += too_large(chosen.name, chosen.spec, *_size(terms.observed.job.spec))
    if refused:
        return replace(terms, refusal=(NOT_ALLOWED, "; ".join(refused)))
    return replace(terms, full=_full(terms.observed, chosen.name, chosen.spec))


def _recorded(observed: Observed, spec: TrainingJobSpec) -> Terms:
    """Return the terms of a started job. The class as it is now counts only for what is edited, and where the job grows or resumes."""
    job = observed.job
    applied = job.status.class_
    if applied is None:
        return Terms(observed)
    terms = _with_defaults(observed, spec, applied)
    rules = next((known.spec for known in observed.classes if known.name == applied.name), None)
    effective = terms.observed.job.spec
    if isinstance(effective, InvalidJobError) or not isinstance(rules, TrainingClassSpec):
        return terms
    refused = []
    if changes(job.status.spec_digests, digests(effective)):
        refused += not_allowed(applied.name, rules, job.namespace, spec.to_wire())
    full = _full(terms.observed, applied.name, rules)
    if effective.workers.count > job.status.workers.desired:
        refused += too_large(applied.name, rules, *_size(effective))
        refused += [full] if full is not None and not is_idle(job.status) else []
    if refused:
        return replace(terms, refusal=(NOT_ALLOWED, "; ".join(refused)))
    return replace(terms, full=full)


def is_idle(status: TrainingJobStatus) -> bool:
    """Return whether the job holds nothing: it has not started yet, or was suspended and has not been resumed."""
    return status.attempt == 0 or status.phase in (None, Phase.SUSPENDED) or is_held(status)


def is_held(status: TrainingJobStatus) -> bool:
    """Return whether the job waits until its namespace has room for it. A job that waits in a scheduler's queue has begun."""
    return status.phase == Phase.QUEUED and status.started_at is None


def hold(status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status of a job that has to wait for others of its namespace."""
    return status.changed(phase=Phase.QUEUED, started_at=None, next_start=None, waiting_since=None)


def is_undecided(observed: Observed) -> bool:
    """Return whether the next pass may depend on classes and on other jobs: it may start the job, or carry out an edit of it."""
    job = observed.job
    if (job.status.phase is not None and job.status.phase.terminal) or isinstance(job.spec, InvalidJobError):
        return False
    if job.status.attempt == 0:
        return True
    if job.status.class_ is None:
        return False
    effective = _with_defaults(observed, job.spec, job.status.class_).observed.job.spec
    if isinstance(effective, InvalidJobError):
        return False
    return is_idle(job.status) or bool(changes(job.status.spec_digests, digests(effective)))


def additions(applied: AppliedClass | None) -> ClassPods | None:
    """Return what the class adds to worker pods, as it was recorded."""
    return ClassPods.model_validate_json(applied.pods) if applied is not None and applied.pods is not None else None


def _choose(named: str | None, observed: Observed) -> TrainingClass | tuple[str, str] | None:
    """Return the class of a job that has not started, why there is none, or None if the job needs none."""
    source = "spec.class"
    if named is None and observed.namespace_class is not None:
        named, source = observed.namespace_class, f"label {CLASS_LABEL} of namespace {observed.job.namespace}"
    if named is not None:
        found = next((known for known in observed.classes if known.name == named), None)
        names = ", ".join(sorted(known.name for known in observed.classes)) or "none"
        return found or ("ClassNotFound", f"{source}: there is no TrainingClass {named} (there are: {names})")
    defaults = [known for known in observed.classes if known.is_default]
    if len(defaults) > 1:
        names = " and ".join(sorted(known.name for known in defaults))
        return "SeveralDefaultClasses", f"the TrainingClasses {names} are all the default: name one in spec.class"
    return next(iter(defaults), None)


def _size(spec: TrainingJobSpec) -> tuple[int, int]:
    return spec.workers.count, spec.workers.count * spec.workers.gpus


# What a class fills in.


def _with_defaults(observed: Observed, spec: TrainingJobSpec, applied: AppliedClass) -> Terms:
    """Return the terms with the effective spec, or with the error that says why the two do not go together."""
    job = observed.job
    wire = spec.to_wire()
    for path, text in applied.filled.items():
        _put(wire, path, json.loads(text))
    effective: TrainingJobSpec | InvalidJobError
    try:
        effective = read_spec(wire) if applied.filled else spec
    except InvalidJobError as error:
        note = f" (with the defaults of TrainingClass {applied.name})"
        effective = InvalidJobError([FieldError(each.field, each.message + note) for each in error.errors])
    seconds = wire.get("ttlSecondsAfterFinished")
    return Terms(replace(observed, job=replace(job, spec=effective, time_to_live=seconds)), applied)


def _flat(rules: TrainingClassSpec) -> dict[str, Any]:
    """Return the defaults of a class by path."""
    wire: dict[str, Any] = {} if rules.defaults is None else rules.defaults.to_wire()
    parts = {f"{part}.{name}": value for part, of in wire.items() if isinstance(of, dict) for name, value in of.items()}
    return parts | {name: value for name, value in wire.items() if not isinstance(value, dict)}


def _filled(user: Wire, defaults: Wire) -> dict[str, Any]:
    """Return those of a class's defaults that a job does not say itself, by path.

    The API server writes its defaults into a spec, so a field at such a default counts as not said.
    """
    has_location = any(at(user, path) is not None for path in _LOCATIONS)
    filled = {}
    for path, default in defaults.items():
        said = at(user, path)
        if path in _MERGED:
            missing = _MERGED[path](default, said or type(default)())
        elif said not in (None, at(api_defaults(), path)) or (path in _LOCATIONS and has_location):
            continue
        else:
            missing = default
        if missing not in ({}, []):
            filled[path] = missing
    return filled


def _more_variables(default: list[Wire], said: list[Wire]) -> list[Wire]:
    names = {variable["name"] for variable in said}
    return [variable for variable in default if variable["name"] not in names]


def _more_keys(default: Wire, said: Wire) -> Wire:
    return {key: value for key, value in default.items() if key not in said}


def _more_resources(default: Wire, said: Wire) -> Wire:
    """Return the resources that a job mentions neither as a request nor as a limit, since the two depend on each other."""
    mentioned = {name for amounts in said.values() for name in amounts}
    left = {
        kind: {name: amounts[name] for name in amounts if name not in mentioned} for kind, amounts in default.items()
    }
    return {kind: amounts for kind, amounts in left.items() if amounts}


_MERGED: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "workers.env": _more_variables,
    "workers.nodeSelector": _more_keys,
    "workers.resources": _more_resources,
}
"""Fields of which a class fills in single items: each function returns the items that the job does not say."""


def _put(wire: dict[str, Any], path: str, value: Any) -> None:
    """Add what was filled in to a spec; what the spec says itself takes precedence."""
    *parents, last = path.split(".")
    for parent in parents:
        wire = wire.setdefault(parent, {})
    said = wire.get(last)
    if path in _MERGED:
        said = said or type(value)()
        more = _MERGED[path](value, said)
        wire[last] = said + more if isinstance(said, list) else _joined(said, more)
    elif said is None or said == at(api_defaults(), path):
        wire[last] = value


def _joined(said: Wire, more: Wire) -> Wire:
    both = dict(said)
    for key, value in more.items():
        both[key] = {**both.get(key, {}), **value} if isinstance(value, dict) else value
    return both


def _as_text(filled: Wire) -> dict[str, str]:
    return {path: json.dumps(value, sort_keys=True) for path, value in filled.items()}


# Limits per namespace.


def _full(observed: Observed, name: str, rules: TrainingClassSpec) -> str | None:
    """Return why the job has to wait until others of its namespace end, or None.

    Jobs that have started come first, then those that wait, by creation time and UID. So every job decides from the same
    order, and no two can take the same room.
    """
    job, limits = observed.job, rules.limits.per_namespace
    if limits.jobs is None and limits.workers is None and limits.gpus is None:
        return None
    if isinstance(job.spec, InvalidJobError):
        return None
    others = [each for each in observed.neighbours if each.uid != job.uid and _class_of(each, observed) == name]
    active = _sum((each for each in others if each.active), rules)
    place = (job.created_at, job.uid)
    ahead = _sum((each for each in others if each.waiting and (each.created_at, each.uid) < place), rules)
    need = (1, *_size(job.spec))
    for what, used, before, own, most in zip(
        ("jobs", "workers", "GPUs"), active, ahead, need, (limits.jobs, limits.workers, limits.gpus), strict=True
    ):
        if most is not None and own and used + before + own > most:
            waiting = f", and jobs that were created earlier wait for {before}" if before else ""
            return (
                f"namespace {job.namespace} uses {used} of {most} {what} of class {name}{waiting}; this job needs {own}"
            )
    return None


def _class_of(neighbour: Neighbour, observed: Observed) -> str | None:
    if neighbour.started:
        return neighbour.class_name
    chosen = _choose(neighbour.class_name, observed)
    return chosen.name if isinstance(chosen, TrainingClass) else None


def _sum(neighbours: Iterable[Neighbour], rules: TrainingClassSpec) -> tuple[int, int, int]:
    """Return the jobs, workers and GPUs of several jobs."""
    default = at({} if rules.defaults is None else rules.defaults.to_wire(), _GPUS) or {}
    jobs = workers = gpus = 0
    for each in neighbours:
        filled = each.filled if each.started else default
        jobs, workers = jobs + 1, workers + each.workers
        gpus += each.workers * count_gpus({**filled, **each.limits})
    return jobs, workers, gpus
