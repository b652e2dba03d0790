"""Prints the mistakes in a manifest: the line, the reason, and a suggestion where one is likely."""

import difflib
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, get_args

from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from trainwright.api.cautions import cautions
from trainwright.api.job import METADATA_FIELDS, FieldError
from trainwright.api.mistakes import NO_STRING, UNKNOWN
from trainwright.api.spec import TrainingJobSpec
from trainwright.cli.manifest import SourceManifest

_TOP = ["apiVersion", "kind", "metadata", "spec"]
_FEW = 12
"""For an unknown field, the known fields are listed if there are at most this many."""
_ALIASES = {
    "lr": "learningRate",
    "wd": "weightDecay",
    "batchsize": "globalBatchSize",
    "pvc": "persistentVolumeClaim",
    "claim": "persistentVolumeClaim",
    "replicas": "count",
    "iterations": "steps",
}
"""Names that other tools use for fields and that no spelling match would find."""
_ALWAYS_UNPRIVILEGED = "workers have no access to their node and no privileges"
_ABSENT = {
    **dict.fromkeys(
        ("hostPath", "hostNetwork", "hostPID", "hostIPC", "privileged", "capabilities", "allowPrivilegeEscalation"),
        _ALWAYS_UNPRIVILEGED,
    ),
    **dict.fromkeys(
        ("command", "args"), "the image's entrypoint starts the worker; build workers.image on the worker image"
    ),
    **dict.fromkeys(("initContainers", "containers", "sidecars"), "a worker pod has one container; use workers.image"),
    **dict.fromkeys(
        ("livenessProbe", "readinessProbe", "startupProbe"),
        "the operator watches workers by their reports (spec.health)",
    ),
    "restartPolicy": "set spec.restart instead",
    "nfs": "Pod Security restricted admits no NFS in a pod; use a claim (persistentVolumeClaim) of an NFS volume",
    "ports": "workers need none; the operator opens those that it uses",
    "template": "there is no pod template; set the pod's fields in spec.workers",
}
"""Fields of pods that a job does not have, and what to do instead."""


def show_mistakes(
    console: Console, source: str, mistakes: list[FieldError], manifest: SourceManifest | None = None
) -> None:
    """Print every mistake under the name of its file; those of options are not the file's."""
    options = [mistake for mistake in mistakes if mistake.field.startswith("--")]
    written = [mistake for mistake in mistakes if mistake not in options]
    for name, found in (("command line", options), ("standard input" if source == "-" else source, written)):
        if found:
            count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
            console.print(Text.assemble((name, "bold"), f": {count}"))
        for mistake in found:
            _show(console, mistake, manifest)


def show_cautions(console: Console, spec: TrainingJobSpec, manifest: SourceManifest) -> None:
    """Print a warning for each setting of a valid job that will probably not work."""
    for caution in cautions(spec):
        _show(console, caution, manifest, "yellow", "warning: ")


def _show(
    console: Console, mistake: FieldError, manifest: SourceManifest | None, color: str = "red", label: str = ""
) -> None:
    line = manifest.line_of(mistake.field) if manifest is not None else None
    where = f"  line {line}" if line is not None else ""
    console.print(Text.assemble(f"  {label}", (mistake.field, f"bold {color}"), (where, "dim")), soft_wrap=True)
    hint = advice(mistake, manifest.document) if manifest is not None else ""
    message = mistake.message.replace("\n", "\n    ")
    console.print(Text.assemble("    ", message, (hint, "bold")), soft_wrap=True)


def advice(mistake: FieldError, document: Any) -> str:
    """Return what to add to a mistake: what was probably meant or, if nothing comes close, what could be."""
    *holder, last = _steps(mistake.field)
    if "did you mean" in mistake.message:
        return ""
    if mistake.message.startswith(UNKNOWN):
        if re.search(r":[{\[]", mistake.field):
            return "; a space is missing after the colon"
        if last in _ABSENT and holder[:2] in (["spec"], ["spec", "workers"]):
            return f"; a job has no {last}: {_ABSENT[last]}"
        fields = _field_names(holder)
        meant = _ALIASES.get(_plain(last))
        found = meant if meant in fields else _closest(last, fields)
        if found is None:
            return f"; known here: {', '.join(fields)}" if 0 < len(fields) <= _FEW else ""
        return f"; did you mean {found}?"
    if mistake.message.startswith(NO_STRING):
        return _description(holder, last)
    value = _value_at(document, [*holder, last])
    choices = [str(choice) for kind in _types_at([*holder, last]) for choice in _choices(kind)]
    near = _closest(value, choices) if isinstance(value, str) and value not in choices else None
    return f"; did you mean {near}?" if near else ""


def _description(holder: list[str], name: str) -> str:
    """Return what a field takes, as the first sentence of its description says it."""
    for kind in _types_at(holder):
        for field, info in getattr(kind, "model_fields", {}).items():
            if name in (info.alias, field) and info.description:
                return f"; {name} takes: {info.description.partition('. ')[0].rstrip('.')}"
    return ""


def _closest(word: str, choices: list[str]) -> str | None:
    """Return the choice nearest to a word, whether it was mistyped or written in another style (learning_rate)."""
    plain = {_plain(choice): choice for choice in reversed(choices)}
    found = difflib.get_close_matches(_plain(word), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def _plain(word: str) -> str:
    return re.sub(r"[-_ ]", "", word).lower()


def _steps(path: str) -> list[str]:
    """Return the parts of a path: `spec.model.layers[0].dense` has five."""
    return [step for step in re.split(r"[.\[\]]+", path) if step]


def _field_names(steps: list[str]) -> list[str]:
    """Return the names that a mapping at a path knows."""
    if not steps:
        return _TOP
    if steps == ["metadata"]:
        return list(METADATA_FIELDS)
    models = [kind for kind in _types_at(steps) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [info.alias or name for model in models for name, info in model.model_fields.items()]


def _types_at(steps: list[str]) -> list[Any]:
    """Return the types that the field at a path may have."""
    if not steps or steps[0] != "spec":
        return []
    kinds: list[Any] = [TrainingJobSpec]
    for step in steps[1:]:
        kinds = [below for kind in kinds for below in _below(kind, step)]
    return kinds


def _below(kind: Any, step: str) -> Iterator[Any]:
    if step.isdigit():
        for item in get_args(kind)[:1]:
            yield from _alternatives(item)
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, info in kind.model_fields.items():
            if step in (info.alias, name):
                yield from _alternatives(info.annotation)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, or the type itself; what only annotates a type is peeled off."""
    if hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    members = () if isinstance(annotation, type) and not get_args(annotation) else get_args(annotation)
    if members and getattr(annotation, "__origin__", None) not in (list, dict):
        for member in members:
            yield from _alternatives(member)
    else:
        yield annotation


def _choices(kind: Any) -> list[str]:
    return [str(member) for member in kind] if isinstance(kind, type) and issubclass(kind, StrEnum) else []


def _value_at(document: Any, steps: list[str]) -> Any:
    for step in steps:
        try:
            document = document[int(step) if step.isdigit() and isinstance(document, list) else step]
        except (KeyError, IndexError, TypeError):
            return None
    return document
