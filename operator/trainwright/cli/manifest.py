"""Reads a manifest and remembers on which line each field stands."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainwright.api.job import FieldError, InvalidJobError
from trainwright.api.names import KIND
from trainwright.manifests import load

STDIN = "-"
_NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True)
class Manifest:
    """A TrainingJob as a person wrote it.

    Attributes:
        source: The file it comes from, or `-` for standard input.
        document: The YAML document as plain Python types.
        lines: The line of each field, by its path as mistakes name it: `spec.model.layers[0].dense`.
    """

    source: str
    document: Any
    lines: dict[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder at which relative paths start."""
        return Path.cwd() if self.source == STDIN else Path(self.source).resolve().parent

    def line_of(self, path: str) -> int | None:
        """Return the line of a field, or of the object that should have held it."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return None


def read_manifests(source: str) -> list[Manifest]:
    """Return the documents of a file (`-` for standard input).

    Raises:
        InvalidJobError: It cannot be read, or is not YAML.
    """
    try:
        text = sys.stdin.read() if source == STDIN else Path(source).read_text(encoding="utf-8")
        documents = load(text)
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node.tag != _NULL]
        return [
            Manifest(source, document, dict(_lines("", node))) for document, node in zip(documents, nodes, strict=True)
        ]
    except OSError as error:
        raise InvalidJobError([FieldError(source, error.strerror or str(error))]) from None
    except UnicodeDecodeError:
        raise InvalidJobError([FieldError(source, "is not text in UTF-8")]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}" if mark else source
        raise InvalidJobError([FieldError(where, error.problem or "is not YAML")]) from None
    except yaml.YAMLError as error:
        raise InvalidJobError([FieldError(source, f"is not YAML: {error}")]) from None


def read_job(source: str) -> Manifest:
    """Return the one TrainingJob of a file; documents of other kinds, such as a claim, are left aside.

    Raises:
        InvalidJobError: It cannot be read, is not YAML, or does not hold exactly one TrainingJob.
    """
    manifests = read_manifests(source)
    if len(manifests) == 1:
        return manifests[0]
    jobs = [m for m in manifests if isinstance(m.document, dict) and m.document.get("kind") == KIND]
    if len(jobs) != 1:
        raise InvalidJobError([FieldError("kind", f"expected one TrainingJob, found {len(jobs) or 'none'}")])
    return jobs[0]


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
