"""Files of pretrained weights: on a mounted volume, or fetched from an object store once per machine."""

import fcntl
import hashlib
import importlib
import json
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from trainwright.api.spec.paths import is_uri
from trainwright_worker.errors import InfrastructureError, UserError

CONFIG: Final = "config.json"
_INDEX: Final = "model.safetensors.index.json"
_WHOLE: Final = ("model.safetensors", "weights.safetensors", "pytorch_model.bin")
_SUFFIXES: Final = frozenset({".json", ".safetensors", ".bin", ".pth", ".pt"})
"""Files that are fetched; what else lies beside them is never needed, and code never wanted."""


def local_path(path: str, root: str, field: str) -> Path:
    """Return where a file or folder lies on this machine; what an URI names is fetched first.

    Args:
        path: A path, or an URI that fsspec can read.
        root: Folder at which relative paths start.
        field: Field of the spec to blame.

    Raises:
        UserError: There is nothing.
        InfrastructureError: The store does not answer.
    """
    found = _fetch(path, field) if is_uri(path) else Path(root) / path
    if not found.exists():
        raise UserError(f"{field}: {path} does not exist", "check the path and the volumes of spec.workers")
    return found


def read_config(path: str, root: str, field: str) -> dict[str, Any] | None:
    """Return the config.json of a pretrained folder; None if there is none, as beside a single file.

    Raises:
        UserError: The folder does not exist, its config is not JSON, or it wants to run code of its own.
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


def _fetch(uri: str, field: str) -> Path:
    """Return the local copy of what an URI names; the processes of a machine share it."""
    fsspec = importlib.import_module("fsspec")
    try:
        store, key = fsspec.url_to_fs(uri)
        key = key.rstrip("/")
        found = [key] if store.isfile(key) else [name for name in store.ls(key, detail=False) if _wanted(name)]
        versions = [str(store.checksum(name)) for name in found]
    except FileNotFoundError:
        found, versions = [], []
    except PermissionError as error:
        raise UserError(f"{field}: {uri} may not be read: {error}", "check the credentials of the workers") from error
    except (OSError, ValueError, ImportError) as error:
        raise InfrastructureError(f"{field}: {uri} cannot be read: {error}") from error
    if not found:
        raise UserError(f"{field}: {uri} holds no weights", "check the URI")
    # What is there decides the name of the copy, so that a changed object is fetched again.
    digest = hashlib.sha256("\n".join((uri, *versions)).encode()).hexdigest()[:32]
    folder = Path(tempfile.gettempdir()) / f"trainwright-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in found:
            target = folder / PurePosixPath(name).name
            if not target.exists():
                partial = target.with_name(f".{target.name}.partial")
                store.get_file(name, str(partial))
                partial.replace(target)
    return folder / PurePosixPath(key).name if found == [key] else folder


def _wanted(name: str) -> bool:
    return PurePosixPath(name).suffix in _SUFFIXES
