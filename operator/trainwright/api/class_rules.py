"""What a TrainingClass refuses: each rule once, for the operator in Python and for the admission policy in CEL."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trainwright.api.base import in_cel, quoted
from trainwright.api.training_class import TrainingClassSpec

Wire = Mapping[str, Any]
_KINDS: Final = ("persistentVolumeClaim", "configMap", "secret", "emptyDir")
_IMPLIED: Final = {"volcano": "volcano", "scheduler-plugins": "scheduler-plugins-scheduler"}
"""The scheduler that spec.scheduling.gang implies."""
_ANY_TAG: Final = "(:[^/@]*)?(@.*)?"
_GPUS: Final = "workers.resources.limits"


@dataclass(frozen=True)
class _Choice:
    """One allowlist.

    Attributes:
        allowed: Its name in spec.allowed of the class.
        path: The field of the job's spec that it is about, for messages.
        values: Returns what a spec, or the class's defaults, say there.
        cel: The same as a CEL expression for a list of texts, in which ROOT stands for the optional spec.
        suffix: Regular expression that may follow what a pattern matches.
    """

    allowed: str
    path: str
    values: Callable[[Wire], Sequence[str]]
    cel: str
    suffix: str = ""

    def refused(self, spec: Wire, defaults: Wire, patterns: Sequence[str]) -> list[str]:
        """Return what the spec asks for and neither a pattern nor a default of the class allows."""
        own = self.values(defaults)
        regexes = [_regex(pattern) + self.suffix for pattern in patterns]
        return [
            value
            for value in self.values(spec)
            if value not in own and not any(re.fullmatch(regex, value) for regex in regexes)
        ]

    def refused_in_cel(self) -> str:
        """Return the same as a CEL expression for a list of messages, over object and params."""
        asked, own = (self.cel.replace("ROOT", root) for root in ("object.?spec", "params.spec.?defaults"))
        regex = f"'^' + p.replace('.', '\\\\.').replace('*', '.*') + '{self.suffix}$'"
        bad = f"{asked}.filter(v, !(v in {own}) && !patterns.exists(p, v.matches({regex})))"
        return (
            f"params.spec.?allowed.?{self.allowed}.optMap(patterns, {bad}.map(v, 'spec.{self.path}: ' + v + "
            "' is not allowed by TrainingClass ' + params.metadata.name + ', which allows ' + "
            f"(patterns.size() == 0 ? {quoted(_NOTHING)} : patterns.join(', ')))).orValue([])"
        )


_NOTHING: Final = "only what it fills in itself"


def at(spec: Wire, path: str) -> Any:
    """Return what is at a path of JSON, or None."""
    found: Any = spec
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _in_cel(path: str) -> str:
    return "".join(f".?{name}" for name in path.split("."))


def _field(allowed: str, path: str, *, always: tuple[str, ...] = (), suffix: str = "") -> _Choice:
    """Return the allowlist of a field that holds one name; some names are always allowed."""

    def values(spec: Wire) -> list[str]:
        found = at(spec, path)
        return [] if found is None or found in always else [found]

    cel = f"ROOT{_in_cel(path)}.optMap(v, [v]).orValue([])"
    return _Choice(allowed, path, values, cel + (f".filter(v, !(v in {in_cel(always)}))" if always else ""), suffix)


def _keys(allowed: str, path: str) -> _Choice:
    """Return the allowlist of the keys of a map."""
    return _Choice(
        allowed, path, lambda spec: list(at(spec, path) or ()), f"ROOT{_in_cel(path)}.orValue({{}}).map(k, k)"
    )


def _schedulers(spec: Wire) -> list[str]:
    implied = _IMPLIED.get(at(spec, "scheduling.gang") or "")
    return [name for name in (at(spec, "workers.schedulerName") or implied,) if name]


_GANG: Final = "ROOT.?scheduling.?gang.orValue('')"
_IMPLIED_IN_CEL: Final = (
    "".join(f"{_GANG} == '{gang}' ? ['{scheduler}'] : " for gang, scheduler in _IMPLIED.items()) + "[]"
)

_CHOICES: Final = (
    _field("images", "workers.image", suffix=_ANY_TAG),
    _field("priorityClasses", "workers.priorityClassName"),
    _field("runtimeClasses", "workers.runtimeClassName"),
    _Choice(
        "schedulers",
        "workers.schedulerName",
        _schedulers,
        f"ROOT.?workers.?schedulerName.optMap(v, [v]).orValue({_IMPLIED_IN_CEL})",
    ),
    _Choice(
        "tolerations",
        "workers.tolerations",
        lambda spec: [toleration.get("key") or "*" for toleration in at(spec, "workers.tolerations") or ()],
        "ROOT.?workers.?tolerations.orValue([]).map(t, t.?key.orValue('*'))",
    ),
    _field("queues", "scheduling.queue"),
    _field("serviceAccounts", "workers.serviceAccountName", always=("default",)),
    _keys("labels", "workers.labels"),
    _keys("annotations", "workers.annotations"),
    _Choice(
        "volumes",
        "workers.volumes",
        lambda spec: [kind for kind in _KINDS if any(kind in each for each in at(spec, "workers.volumes") or ())],
        f"{in_cel(_KINDS)}.filter(kind, ROOT.?workers.?volumes.orValue([]).exists(each, kind in each))",
    ),
)


def _regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", ".*")


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether one of the patterns, in which * stands for any characters, matches a name."""
    return any(re.fullmatch(_regex(pattern), name) for pattern in patterns)


def not_allowed(name: str, rules: TrainingClassSpec, namespace: str, spec: Wire) -> list[str]:
    """Return what the class refuses of a job that has not started, one message for each value.

    Args:
        name: Name of the class.
        rules: The class.
        namespace: Namespace of the job.
        spec: The job's spec as its user wrote it, as JSON.
    """
    if rules.namespaces is not None and not matches(namespace, rules.namespaces):
        those = ", ".join(rules.namespaces) or "none"
        return [f"spec.class: TrainingClass {name} is not for namespace {namespace}, but for {those}"]
    allowed = rules.allowed.to_wire()
    defaults = {} if rules.defaults is None else rules.defaults.to_wire()
    return [
        f"spec.{choice.path}: {value} is not allowed by TrainingClass {name}, which allows {_listed(patterns)}"
        for choice in _CHOICES
        if (patterns := allowed.get(choice.allowed)) is not None
        for value in choice.refused(spec, defaults, patterns)
    ] + list(_user_ids(name, rules, spec))


def _user_ids(name: str, rules: TrainingClassSpec, spec: Wire) -> Iterator[str]:
    user, ids = at(spec, _USER), rules.allowed.user_ids
    if user is not None and ids is not None and not ids.minimum <= user <= ids.maximum:
        yield (
            f"spec.{_USER}: {user} is not allowed by TrainingClass {name}, which allows {ids.minimum} to {ids.maximum}"
        )


_USER: Final = "workers.securityContext.runAsUser"


def too_large(name: str, rules: TrainingClassSpec, workers: int, gpus: int) -> list[str]:
    """Return which limits this one job exceeds, one message for each. It could never run."""
    of_job, of_namespace = rules.limits.per_job, rules.limits.per_namespace
    return [
        f"spec.{path}: {need} {what} are more than the {most} that TrainingClass {name} allows {whom}"
        for whom, limits in (("a job", of_job), ("all jobs of a namespace", of_namespace))
        for path, what, need, most in (
            ("workers.count", "workers", workers, limits.workers),
            (_GPUS, "GPUs", gpus, limits.gpus),
        )
        if most is not None and need > most
    ]


def _listed(patterns: Sequence[str]) -> str:
    return ", ".join(patterns) or _NOTHING


def in_cel_list() -> str:
    """Return a CEL expression for the list of messages about a job that has not started, over object and params."""
    return " + ".join((_namespaces_in_cel(), *(choice.refused_in_cel() for choice in _CHOICES), _user_ids_in_cel()))


def _namespaces_in_cel() -> str:
    regex = "'^' + p.replace('.', '\\\\.').replace('*', '.*') + '$'"
    return (
        f"params.spec.?namespaces.optMap(patterns, patterns.exists(p, request.namespace.matches({regex})) ? [] : "
        "['spec.class: TrainingClass ' + params.metadata.name + ' is not for namespace ' + request.namespace + "
        "', but for ' + (patterns.size() == 0 ? 'none' : patterns.join(', '))]).orValue([])"
    )


def _user_ids_in_cel() -> str:
    return (
        f"object.?spec{_in_cel(_USER)}.optMap(user, params.spec.?allowed.?userIds.optMap(ids, "
        f"user >= ids.minimum && user <= ids.maximum ? [] : ['spec.{_USER}: ' + string(user) + "
        "' is not allowed by TrainingClass ' + params.metadata.name + ', which allows ' + string(ids.minimum) + ' to ' + "
        "string(ids.maximum)]).orValue([])).orValue([])"
    )


def too_many_workers_in_cel() -> str:
    """Return a CEL expression for the list of messages about the number of workers, over object and params."""
    return (
        "params.spec.?limits.?perJob.?workers.optMap(most, object.spec.workers.count <= most ? [] : "
        "['spec.workers.count: ' + string(object.spec.workers.count) + ' workers are more than the ' + string(most) + "
        "' that TrainingClass ' + params.metadata.name + ' allows a job']).orValue([])"
    )
