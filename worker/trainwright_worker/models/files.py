"""Files of pretrained weights: on a mounted volume, or fetched from an object store once per machine."""

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
"""Files that are fetched; what else lies beside them is never needed, and code never wanted."""


def local_path(path: str, root: str, field: str) -> Path:
    """Return where a file or folder lies on this machine; what an URI names is fetched first.

    Args:
        path: A path, or an URI that fsspec can read.
        root: Folder at which relative paths start.
        field: Field of the spec to blame.

    Raises:
        DataError: There is nothing, or it may not be read.
        InfrastructureError: The store does not answer.
    """
    location = find(path, root, field)
    return Path(location.path) if location.protocol is None else _fetch(location)


def read_config(path: str, root: str, field: str) -> dict[str, Any] | None:
    """Return the config.json of a pretrained folder; None if there is none, as beside a single file.

    Raises:
        DataError: The folder does not exist.
        UserError: Its config is not JSON, or it wants to run code of its own.
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
            f"{field}: {path}/{CONFIG} names code of its own (auto_map), which is never run",
            "use a model whose type transformers knows by itself",
        )
    return config


def read_summary(location: Path) -> dict[str, Any]:
    """Return what a job says of itself beside its weights, a file or a folder; nothing if they are from elsewhere."""
    try:
        summary = json.loads(((location if location.is_dir() else location.parent) / SUMMARY_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def read_weights(location: Path, field: str) -> dict[str, Tensor]:
    """Return the tensors of a weights file, or of a folder that holds one, by name.

    Raises:
        UserError: There is no such file, or it holds something else than tensors.
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
        # Whatever a reader says of a damaged file; unpickling is restricted to tensors and says so in its own way.
        raise UserError(f"{field}: {location} holds no weights: {str(error).splitlines()[0]}") from error
    raise UserError(f"{field}: {location} has none of {', '.join((*_WHOLE, _INDEX))}")


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
        raise ValueError("there are no tensors in it")
    return tensors


def _fetch(location: Location) -> Path:
    """Return the local copy of what an URI names; the processes of a machine share it."""
    whole = location.is_folder()
    wanted = [location]
    if whole:
        beside = [file for file in location.files() if PurePosixPath(file.path).parent == PurePosixPath(location.path)]
        wanted = [file for file in beside if file.suffix in _SUFFIXES]
    # What is there decides the name of the copy, so that a changed object is fetched again.
    stamps = [part for file in wanted for part in file.stamp()]
    digest = hashlib.sha256("\n".join((location.name, *stamps)).encode()).hexdigest()[:32]
    folder = Path(tempfile.gettempdir()) / f"trainwright-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise InfrastructureError(f"{location.field}: {folder} belongs to someone else", "set TMPDIR to another folder")
    with locked(folder / ".lock"):
        for file in wanted:
            target = folder / PurePosixPath(file.path).name
            if not target.exists():
                partial = target.with_name(f".{target.name}.partial")
                with file.reading():
                    file.system.get_file(file.path, str(partial))
                partial.replace(target)
    return folder if whole else folder / PurePosixPath(location.path).name
