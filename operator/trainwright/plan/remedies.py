"""Names the field of the spec behind what the cluster refuses or waits for, and what to do about it.

The texts are those of Kubernetes' own components. A text that is not known here is passed on as it is.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from trainwright.api.spec import TrainingJobSpec

_Remedy = Callable[[TrainingJobSpec, re.Match[str]], str]
_Reference = tuple[str, str, str | None]
"""A field of the spec, the name of the object that it names, and the key in that object, if it names one."""
_QUOTA: Final = "ask for less (spec.workers.resources, spec.workers.count), or have the namespace's quota raised"
_LIMITS: Final = "keep spec.workers.resources within the namespace's LimitRange, or have it changed"


def with_remedy(spec: TrainingJobSpec, reason: str, message: str) -> str:
    """Return what the cluster says, with the field of the spec and the remedy if it is known what it speaks of.

    Args:
        spec: The job.
        reason: The cluster's reason; empty if it gives none.
        message: What it says.
    """
    if reason in _IMAGE_REASONS:
        return _join(message, _image(spec))
    for pattern, remedy in _REMEDIES:
        found = re.search(pattern, message)
        if found is not None:
            return _join(message, remedy(spec, found))
    return message


def _join(message: str, remedy: str) -> str:
    return "; ".join(filter(None, (message.strip().rstrip("."), remedy)))


_IMAGE_REASONS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
"""A kubelet's reasons for an image that it cannot pull or read."""


def _image(spec: TrainingJobSpec) -> str:
    if spec.workers.image is None:
        return "this is the operator's default image: have it corrected there, or set spec.workers.image"
    return "correct spec.workers.image, or name a Secret that may pull it in spec.workers.imagePullSecrets"


def _field(name: str, what: str) -> _Remedy:
    """Return the remedy for an object that a field of the spec names and that does not exist."""
    return lambda _spec, _found: f"correct {name}, or have the {what} created"


def _fixed(text: str) -> _Remedy:
    return lambda _spec, _found: text


def _missing_claim(spec: TrainingJobSpec, found: re.Match[str]) -> str:
    return _missing("claim", (field for field, name in _claims(spec) if name == found[1]))


def _unbound_claim(spec: TrainingJobSpec, _found: re.Match[str]) -> str:
    named = ", ".join(f"{field} ({name})" for field, name in _claims(spec))
    return f"no volume is bound to {named}: kubectl describe pvc says why; often its storage class does not exist"


def _missing_config_map(spec: TrainingJobSpec, found: re.Match[str]) -> str:
    code = None if spec.code is None else spec.code.config_map
    own: list[_Reference] = [] if code is None else [("spec.code.configMap.name", code.name, None)]
    return _named("ConfigMap", [*own, *_references(spec, "configMap", "name")], found)


def _missing_secret(spec: TrainingJobSpec, found: re.Match[str]) -> str:
    return _named("Secret", _references(spec, "secret", "secretName"), found)


def _references(spec: TrainingJobSpec, kind: str, name: str) -> Iterator[_Reference]:
    """Yield the fields of the workers that name a ConfigMap or a Secret.

    Args:
        spec: The job.
        kind: `configMap` or `secret`, with which the fields begin.
        name: The field of a volume that holds the name.
    """
    workers = spec.workers.to_wire()
    for number, volume in enumerate(workers.get("volumes", ())):
        if kind in volume:
            yield f"spec.workers.volumes[{number}].{kind}.{name}", volume[kind][name], None
    for number, variable in enumerate(workers.get("env", ())):
        reference = variable.get("valueFrom", {}).get(f"{kind}KeyRef")
        if reference is not None:
            field = f"spec.workers.env[{number}].valueFrom.{kind}KeyRef ({variable['name']})"
            yield field, reference["name"], reference["key"]
    for number, source in enumerate(workers.get("envFrom", ())):
        if f"{kind}Ref" in source:
            yield f"spec.workers.envFrom[{number}].{kind}Ref.name", source[f"{kind}Ref"]["name"], None


def _named(what: str, references: Iterable[_Reference], found: re.Match[str]) -> str:
    """Return the remedy for an object, or for a key of it, that does not exist."""
    name, key = found["name"], found.groupdict().get("key")
    fields = (field for field, other, within in references if other == name and key in (None, within))
    return _missing(what if key is None else "key", fields)


def _missing(what: str, fields: Iterator[str]) -> str:
    """Return the remedy for an object that fields of the spec name; empty if none of them does."""
    named = ", ".join(fields)
    return f"create the {what}, and the pods start by themselves, or correct {named}" if named else ""


def _claims(spec: TrainingJobSpec) -> Iterator[tuple[str, str]]:
    """Yield the fields that name a PersistentVolumeClaim, each with the claim's name."""
    if spec.checkpoint.persistent_volume_claim is not None:
        yield "spec.checkpoint.persistentVolumeClaim", spec.checkpoint.persistent_volume_claim
    for number, volume in enumerate(spec.workers.volumes or ()):
        if volume.persistent_volume_claim is not None:
            field = f"spec.workers.volumes[{number}].persistentVolumeClaim.claimName"
            yield field, volume.persistent_volume_claim.claim_name


_REMEDIES: Final[tuple[tuple[str, _Remedy], ...]] = (
    (r'RuntimeClass "[^"]+" not found', _field("spec.workers.runtimeClassName", "RuntimeClass")),
    (r"no PriorityClass with name \S+ was found", _field("spec.workers.priorityClassName", "PriorityClass")),
    (r'serviceaccount "[^"]+" not found', _field("spec.workers.serviceAccountName", "service account")),
    (r"(exceeded|failed) quota", _fixed(_QUOTA)),
    (r"(minimum|maximum) \S+ usage per (Container|Pod)|limit to request ratio per", _fixed(_LIMITS)),
    (r"no \S+ PodGroup in this cluster", _fixed("correct spec.scheduling.gang, or have that scheduler installed")),
    (r'persistentvolumeclaim "([^"]+)" not found', _missing_claim),
    (r"unbound immediate PersistentVolumeClaims", _unbound_claim),
    (r'configmap "(?P<name>[^"]+)" not found', _missing_config_map),
    (r"couldn't find key (?P<key>\S+) in ConfigMap [^/\s]+/(?P<name>\S+)", _missing_config_map),
    (r'secret "(?P<name>[^"]+)" not found', _missing_secret),
    (r"couldn't find key (?P<key>\S+) in Secret [^/\s]+/(?P<name>\S+)", _missing_secret),
)
"""What the text of a component says, as a pattern, and the remedy for it."""
