"""Fields of a spec with paths of existing data. The paths are mapped when a job runs on a laptop rather than in a pod."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, TypeVar, get_args

from pydantic import Field

from trainwright.api.base import Model, camel

_MARK: Final = "path"

Path = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^([^.]|\.[^.])*\.?$"), _MARK]
"""A path or a URI (s3://bucket/key) without `..` anywhere in it: it cannot leave the folder it starts from."""
Shards = Annotated[
    str,
    Field(min_length=1, max_length=1024, pattern=r"^([^.{}]|\.[^.{}]|\.?\{[0-9]{1,6}\.\.[0-9]{1,6}\})*\.?$"),
    _MARK,
]
"""A path that may hold ranges of numbers, as in train-{000..146}.tar; otherwise without `..`, like `Path`."""

_AnyModel = TypeVar("_AnyModel", bound=Model)


def is_uri(path: str) -> bool:
    """Return whether a path names something in an object store rather than on a mounted volume."""
    return "://" in path


def list_paths(part: Model, prefix: str = "spec") -> Iterator[tuple[str, str]]:
    """Yield every path in a part of a spec, with the field that holds it: ("spec.dataset.csv.path", "iris.csv")."""
    for name, info in type(part).model_fields.items():
        value = getattr(part, name)
        field = f"{prefix}.{camel(name)}"
        if isinstance(value, Model):
            yield from list_paths(value, field)
        elif isinstance(value, str) and _is_path(info.annotation, info.metadata):
            yield field, value


def map_paths(part: _AnyModel, change: Callable[[str], str]) -> _AnyModel:
    """Return a part of a spec with every path in it changed."""
    changed: dict[str, Any] = {}
    for name, info in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(value, Model):
            changed[name] = map_paths(value, change)
        elif isinstance(value, str) and _is_path(info.annotation, info.metadata):
            changed[name] = change(value)
    return part.changed(**changed)


def _is_path(annotation: Any, metadata: list[Any]) -> bool:
    """Return whether a field is declared as `Path` or `Path | None`."""
    return _MARK in metadata or any(_MARK in getattr(choice, "__metadata__", ()) for choice in get_args(annotation))
