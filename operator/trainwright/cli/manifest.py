"""Reads manifests and records the line of each field."""

import copy
import difflib
import functools
import operator
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainwright.api.job import FieldError, InvalidJobError, read_manifest
from trainwright.api.mistakes import WITHOUT_DOTS
from trainwright.api.names import GROUP, KIND
from trainwright.api.spec import TrainingJobSpec
from trainwright.manifests import load

STDIN = "-"
_NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True)
class SourceManifest:
    """A manifest as written in a file, with the line of each field.

    Attributes:
        source: Path of the file, or `-` for standard input.
        document: The YAML document as plain Python types.
        lines: The line of each field, by its path in messages: `spec.model.layers[0].dense`.
    """

    source: str
    document: Any
    lines: dict[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder to which relative paths refer."""
        return Path.cwd() if self.source == STDIN else Path(self.source).resolve().parent

    def line_of(self, path: str) -> int | None:
        """Return the line of a field, or of the nearest parent that exists."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return None


def read_manifests(source: str) -> list[SourceManifest]:
    """Return the documents of a file (`-` for standard input).

    Raises:
        InvalidJobError: It cannot be read, or is not YAML.
    """
    try:
        text = sys.stdin.read() if source == STDIN else Path(source).read_text(encoding="utf-8")
        documents = load(text)
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node.tag != _NULL]
        return [
            SourceManifest(source, document, dict(_lines("", node)))
            for document, node in zip(documents, nodes, strict=True)
        ]
    except OSError as error:
        raise InvalidJobError([FieldError(source, error.strerror or str(error))]) from None
    except UnicodeDecodeError:
        raise InvalidJobError([FieldError(source, "is not text in UTF-8")]) from None
    except yaml.MarkedYAMLError as error:
        raise InvalidJobError([_syntax_mistake(source, text, error)]) from None
    except yaml.YAMLError as error:
        raise InvalidJobError([FieldError(source, f"is not YAML: {error}")]) from None


def read_jobs(source: str) -> list[SourceManifest]:
    """Return the TrainingJobs of a file; documents of other kinds, such as a PersistentVolumeClaim, are skipped.

    Documents with a wrong kind that are probably meant as TrainingJobs are returned, too, so that their mistake is reported: a
    single document in any case, and of several those of our group or with a similar kind.

    Raises:
        InvalidJobError: It cannot be read, is not YAML, or holds no TrainingJob.
    """
    manifests = read_manifests(source)
    if not manifests:
        raise InvalidJobError([FieldError("(manifest)", "the file is empty")])
    jobs = [manifest for manifest in manifests if _is_meant(manifest.document)]
    if len(manifests) > 1 and not jobs:
        raise InvalidJobError([FieldError("kind", f"must be {KIND!r} in at least one of the documents")])
    return manifests if len(manifests) == 1 else jobs


def _is_meant(document: Any) -> bool:
    """Return whether a document was meant to be a TrainingJob. Kubeflow's TrainJob of its own group was not."""
    if not isinstance(document, dict):
        return False
    kind = str(document.get("kind")).lower()
    ours = str(document.get("apiVersion")).startswith(f"{GROUP}/")
    return ours or bool(difflib.get_close_matches(kind, [KIND.lower()], cutoff=0.85))


def read_job(source: str) -> SourceManifest:
    """Return the one TrainingJob of a file.

    Raises:
        InvalidJobError: It cannot be read, is not YAML, or does not hold exactly one TrainingJob.
    """
    jobs = read_jobs(source)
    if len(jobs) > 1:
        reason = f"the file holds {len(jobs)} TrainingJobs, but the command takes one: put each into a separate file"
        raise InvalidJobError([FieldError("kind", reason)])
    return jobs[0]


def read_with_workers(document: Any, workers: int | None) -> tuple[Any, TrainingJobSpec]:
    """Return the document with the requested number of workers, if any, and its spec.

    Raises:
        InvalidJobError: The job is invalid. If only the number of workers makes it so, the error names --workers.
    """
    if workers is None or not isinstance(document, dict) or not isinstance(document.get("spec"), dict):
        return document, read_manifest(document)
    spec = {**document["spec"], "workers": {**(document["spec"].get("workers") or {}), "count": workers}}
    changed = {**document, "spec": spec}
    try:
        return changed, read_manifest(changed)
    except InvalidJobError as error:
        read_manifest(document)
        mistakes = [
            FieldError("--workers", f"{workers} workers are not possible for this job: {each}") for each in error.errors
        ]
        raise InvalidJobError(mistakes) from None


def read_here(document: Any, folder: Path | None, workers: int | None) -> tuple[Any, TrainingJobSpec]:
    """Return a document with its paths adapted to this machine, and its spec.

    A cluster refuses a path with `..`, which could leave its volume. Here such a path is taken from the manifest's folder, as
    long as it stays within the repository that holds the manifest.

    Args:
        document: The document as written.
        folder: The manifest's folder; None if the document holds no path that starts there.
        workers: Another number of workers, if one is asked for.

    Raises:
        InvalidJobError: The job is invalid.
    """
    try:
        return read_with_workers(document, workers)
    except InvalidJobError as error:
        climbing = [mistake.field for mistake in error.errors if mistake.message.startswith(WITHOUT_DOTS)]
        if folder is None or not climbing:
            raise
        changed = copy.deepcopy(document)
        for field in climbing:
            *above, last = field.split(".")
            holder = functools.reduce(operator.getitem, above, changed)
            holder[last] = _within_repository(holder[last], folder)
        return read_with_workers(changed, workers)


def _within_repository(path: str, folder: Path) -> str:
    """Return an absolute path; the path as it is if it leaves the repository of the folder."""
    root = next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), folder)
    place = Path(os.path.normpath(folder / path))
    return str(place) if place.is_relative_to(root) else path


def _syntax_mistake(source: str, text: str, error: yaml.MarkedYAMLError) -> FieldError:
    """Return what is wrong with the YAML, with the line and a mark at the place."""
    mark = error.problem_mark
    if mark is None:
        return FieldError(source, error.problem or "is not YAML")
    lines = text.splitlines()
    # PyYAML reports an unclosed bracket or quote at the end of the file.
    line = lines[mark.line].replace("\t", " ") if mark.line < len(lines) else ""
    shown = f"\n{line}\n{' ' * mark.column}^" if line.strip() else ""
    problem = error.problem or "is not YAML"
    hint = _syntax_hint(problem, lines[mark.line - 1] if mark.line else "")
    return FieldError(f"line {mark.line + 1}, column {mark.column + 1}", f"{problem}{hint}{shown}")


def _syntax_hint(problem: str, before: str) -> str:
    """Return what to do about a problem, by the words in which PyYAML tells it and the line before."""
    if "'\\t'" in problem:
        return ": indent with spaces, not tabs"
    if (
        problem in ("mapping values are not allowed here", "could not find expected ':'")
        and before
        and ":" not in before
    ):
        return " (or the line before lacks a colon)"
    return ""


def _lines(path: str, node: yaml.Node) -> Iterator[tuple[str, int]]:
    """Yield the path and line of every field below a node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = f"{path}.{key.value}" if path else str(key.value)
            yield below, key.start_mark.line + 1
            yield from _lines(below, value)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield f"{path}[{index}]", value.start_mark.line + 1
            yield from _lines(f"{path}[{index}]", value)
