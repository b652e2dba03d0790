"""Files of pretrained weights: read from a mounted volume, or downloaded once per machine from an object store."""

import hashlib
import json
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from trainwright.api.names import SUMMARY_FILE, WEIGHTS_FILE
from trainwright_worker.errors import InfrastructureError, UserError
from trainwright_worker.files import Location, find, locked

CONFIG: Final = "config.json"
_INDEX: Final = "model.safetensors.index.json"
_WHOLE: Final = ("model.safetensors", WEIGHTS_FILE, "pytorch_model.bin")
_SUFFIXES: Final = frozenset({".json", ".safetensors", ".bin", ".pth", ".pt"})
"""Suffixes of the files that are downloaded. Other files in the folder are not needed, and code must not be loaded."""


def local_path(path: str, root: str, field: str) -> Path:
    """Return the local path of a file or folder; a URI is downloaded first.

    Args:
        path: A path, or a URI that fsspec can read.
        root: Folder that relative paths are resolved against.
        field: Field of the spec that error messages name.

    Raises:
        DataError: The file does not exist, or access is denied.
        InfrastructureError: The store does not answer.
    """
    location = find(path, root, field)
    return Path(location.path) if location.protocol is None else _fetch(location)


def read_config(path: str, root: str, field: str) -> dict[str, Any] | None:
    """Return the config.json of a pretrained folder; None if it has none, or if the path is a single file.

    Raises:
        DataError: The folder does not exist.
        UserError: The config is not valid JSON, or it refers to custom code.
    """
    if PurePosixPath(path).suffix in _SUFFIXES:
        return None
    file = local_path(path, root, field) / CONFIG
    if not file.is_file():
        return None
    try:
        config: dict[str, Any] = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise UserError(f"{field}: {path}/{CONFIG} cannot be read: {error}") from error
    if "auto_map" in config:
        raise UserError(
            f"{field}: {path}/{CONFIG} refers to custom code (auto_map), which is never run",
            "use a model type that the transformers library includes",
        )
    return config


def read_summary(location: Path) -> dict[str, Any]:
    """Return the summary that a job wrote beside its weights; empty if the weights do not come from a job.

    Args:
        location: The weights file, or the folder that holds it.
    """
    try:
        summary = json.loads(((location if location.is_dir() else location.parent) / SUMMARY_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def read_weights(location: Path, field: str) -> dict[str, Tensor]:
    """Return the tensors of a weights file, or of a folder that holds one, by name.

    Raises:
        UserError: There is no such file, or it holds anything but tensors.
    """
    try:
        if location.is_file():
            return _read_file(location)
        if (location / _INDEX).is_file():
            shards = sorted(set(json.loads((location / _INDEX).read_text())["weight_map"].values()))
            return {name: value for shard in shards for name, value in _read_file(location / Path(shard).name).items()}
        for name in _WHOLE:
            if (location / name).is_file():
                return _read_file(location / name)
    except UserError:
        raise
    except Exception as error:
        # Readers raise many kinds of errors for a damaged file, and torch for a pickle that holds anything but tensors.
        raise UserError(f"{field}: {location} holds no readable weights: {str(error).splitlines()[0]}") from error
    raise UserError(f"{field}: {location} contains none of the files {', '.join((*_WHOLE, _INDEX))}")


def _read_file(file: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor]
    if file.suffix == ".safetensors":
        tensors = safetensors.torch.load_file(file)
        return tensors
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError("the file contains no tensors")
    return tensors


def _fetch(location: Location) -> Path:
    """Return the local copy of a URI's file or folder; all processes of a machine share it."""
    whole = location.is_folder()
    wanted = [location]
    if whole:
        beside = [file for file in location.files() if PurePosixPath(file.path).parent == PurePosixPath(location.path)]
        wanted = [file for file in beside if file.suffix in _SUFFIXES]
    # The name of the copy depends on size and version of the objects, so that a changed object is downloaded again.
    stamps = [part for file in wanted for part in file.stamp()]
    digest = hashlib.sha256("\n".join((location.name, *stamps)).encode()).hexdigest()[:32]
    folder = Path(tempfile.gettempdir()) / f"trainwright-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise InfrastructureError(f"{location.field}: {folder} belongs to another user", "set TMPDIR to another folder")
    with locked(folder / ".lock"):
        for file in wanted:
            target = folder / PurePosixPath(file.path).name
            if not target.exists():
                partial = target.with_name(f".{target.name}.partial")
                with file.reading():
                    file.system.get_file(file.path, str(partial))
                partial.replace(target)
    return folder if whole else folder / PurePosixPath(location.path).name
