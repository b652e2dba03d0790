"""Paths of a pod, mapped to paths of this machine, as a kubelet maps them by mounting volumes."""

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trainwright.api.job import FieldError, InvalidJobError
from trainwright.api.names import (
    CA_FILE,
    CODE_MOUNT,
    CODE_VOLUME,
    CONFIG_FILE,
    DATA_MOUNT,
    ENV_CONFIG,
    ENV_RENDEZVOUS_HOST,
    ENV_SHARING_PROCESSES,
    ENV_TERMINATION_LOG,
    LABEL_WORKER,
    TOKEN_FILE,
)
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.code import CodeSpec
from trainwright.api.spec.paths import is_uri, list_paths, map_paths
from trainwright.api.spec.volumes import VolumeSpec
from trainwright.api.worker import WorkerConfig
from trainwright.cluster.local.gpus import assign
from trainwright.cluster.port import Manifest

TERMINATION_FILE = "termination.json"

_INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
"""Environment variables that workers inherit. Only these few, so that a run does not depend on the user's shell."""
_OBJECT_STORE = ("AWS_", "FSSPEC_S3_", "BOTO_CONFIG")
"""Beginnings of the variables by which botocore and s3fs find an object store, its credentials and profiles."""
_CONNECTION = {
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "requests_ca_bundle",
    "ssl_cert_file",
    "ssl_cert_dir",
}
"""Variables of any case that say how a network is reached."""


@dataclass(frozen=True)
class Folders:
    """Folders of this machine that stand for what a cluster mounts.

    Attributes:
        run: Folder of the run: its logs, its pods' files, and the job's checkpoints and results.
        data: Where relative dataset paths start.
        volumes: Folders that stand for the job's own volumes, by the volume's name.
    """

    run: Path
    data: Path
    volumes: Mapping[str, Path]

    def pod(self, name: str) -> Path:
        """Return the folder of a pod's own files."""
        return self.run / "pods" / name

    def log(self, name: str) -> Path:
        """Return the log file of a pod."""
        return self.run / "logs" / f"{name}.log"


def named_volumes(pairs: list[str]) -> dict[str, Path]:
    """Return the absolute folder of each volume, given as NAME=FOLDER.

    Raises:
        InvalidJobError: A pair is something else.
    """
    volumes = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not equals or not folder:
            raise InvalidJobError([FieldError("--volume", f"expected NAME=FOLDER, found {pair!r}")])
        volumes[name] = Path(folder).resolve()
    return volumes


def volume_mistakes(spec: TrainingJobSpec, volumes: Mapping[str, Path]) -> list[FieldError]:
    """Return which volumes the job does not have, which folders do not exist, and whether the folder of its code is missing."""
    code = spec.code is not None and spec.code.config_map is not None
    known = [*(volume.name for volume in spec.workers.volumes or ()), *([CODE_VOLUME] if code else [])]
    if code and CODE_VOLUME not in volumes:
        advice = f"a ConfigMap of a cluster: pass --volume {CODE_VOLUME}=FOLDER with the folder that holds its files"
        return [FieldError("spec.code.configMap", advice)]
    unknown = [
        FieldError("--volume", f"the job has no volume named {name!r}; it has: {', '.join(known) or 'none'}")
        for name in volumes
        if name not in known
    ]
    absent = [
        FieldError("--volume", f"{name}={folder}: no such folder")
        for name, folder in volumes.items()
        if not folder.is_dir()
    ]
    return unknown + absent


def mistakes(spec: TrainingJobSpec, data: Path, volumes: Mapping[str, Path]) -> list[FieldError]:
    """Return what is wrong with running this spec here: wrong volumes, and dataset files that do not exist."""
    found = volume_mistakes(spec, volumes)
    folders = Folders(Path(), data, volumes)
    told: set[str] = set()
    for field, path in absent_paths(spec, folders):
        volume = _volume_of(spec, str(PurePosixPath(DATA_MOUNT) / path))
        if volume is None or volume.name not in told:
            found.append(FieldError(field, describe_absence(spec, path, folders)))
        if volume is not None and volume.name not in volumes:
            told.add(volume.name)
    return found


def describe_absence(spec: TrainingJobSpec, path: str, folders: Folders) -> str:
    """Return why a path does not exist here: its volume was not given, or the file is missing."""
    volume = _volume_of(spec, str(PurePosixPath(DATA_MOUNT) / path))
    if volume is None or volume.name in folders.volumes:
        return f"{_place(spec, path, folders)} does not exist"
    return _advise_volume(path, volume)


def _advise_volume(path: str, volume: VolumeSpec) -> str:
    advice = f"pass --volume {volume.name}=FOLDER with the folder that holds its files"
    return f"{path} lies in the volume {volume.name!r}, which this machine does not have: {advice}"


def absent_paths(spec: TrainingJobSpec, folders: Folders) -> list[tuple[str, str]]:
    """Return the paths of a spec, with their fields, that lead to nothing on this machine."""
    return [
        (field, path)
        for field, path in list_paths(spec)
        if not is_uri(path) and (_is_missing_volume(spec, path, folders) or not _exists(_place(spec, path, folders)))
    ]


def localize(config: WorkerConfig, folders: Folders, pod: str) -> WorkerConfig:
    """Return the config of a worker with every path replaced by this machine's own."""
    spec, root = localize_spec(config.spec, folders)
    wire = config.changed(spec=spec).to_wire()
    if spec.start_from is not None and not is_uri(spec.start_from.path):
        # Each run here has a folder of its own, so what an earlier one left is named from where its manifest lies.
        wire["spec"]["startFrom"]["path"] = str(folders.data / spec.start_from.path)
    wire["checkpointRoot"] = str(folders.run)
    wire["dataRoot"] = str(root)
    wire.pop("metricsPort", None)
    if "reports" in wire:
        wire["reports"]["caFile"] = str(folders.pod(pod) / CA_FILE)
        wire["reports"]["tokenFile"] = str(folders.pod(pod) / TOKEN_FILE)
    return WorkerConfig.model_validate(wire, strict=False)


def localize_spec(spec: TrainingJobSpec, folders: Folders) -> tuple[TrainingJobSpec, Path]:
    """Return a spec with every path replaced by this machine's own, and the folder at which relative ones start."""
    if spec.code is not None and spec.code.config_map is not None:
        spec = spec.changed(code=CodeSpec(path=CODE_MOUNT))
    return map_paths(spec, lambda path: _local_path(spec, path, folders)), _data_root(spec, folders)


def environment(pod: Manifest, config: WorkerConfig, folder: Path) -> dict[str, str]:
    """Return the environment of a pod's process: little of the caller's, what the container says, and local paths."""
    own = {key: value for key, value in os.environ.items() if _is_inherited(key)}
    own |= {ENV_SHARING_PROCESSES: str(config.spec.world_size), "PYTHONUNBUFFERED": "1"}
    own |= assign(config.spec, int(pod["metadata"]["labels"][LABEL_WORKER]))
    entries = pod["spec"]["containers"][0].get("env") or ()
    # A pod's home is scratch space. Here it stays the user's, where Python may have packages of theirs.
    own |= {entry["name"]: _value(entry, pod) for entry in entries if entry["name"] != "HOME"}
    return own | {
        ENV_CONFIG: str(folder / CONFIG_FILE),
        ENV_RENDEZVOUS_HOST: "127.0.0.1",
        ENV_TERMINATION_LOG: str(folder / TERMINATION_FILE),
    }


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write a pod's own files so that only this user can read them: one of them is a token."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, text in files.items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(text)


def _is_inherited(variable: str) -> bool:
    return variable in _INHERITED or variable.startswith(_OBJECT_STORE) or variable.lower() in _CONNECTION


def _exists(place: Path) -> bool:
    """Return whether a path leads to data; it may name many files by wildcards, or shards by {000..015}."""
    pattern = re.sub(r"\{[^}]*\}\*?", "*", str(place))
    return place.exists() or any(glob.iglob(pattern, recursive=True))  # noqa: PTH207 - pathlib refuses part**


def _place(spec: TrainingJobSpec, path: str, folders: Folders) -> Path:
    # Joining an absolute path to a folder leaves the path alone.
    return _data_root(spec, folders) / _local_path(spec, path, folders)


def _is_missing_volume(spec: TrainingJobSpec, path: str, folders: Folders) -> bool:
    """Return whether a path means the whole of a volume that this machine does not have.

    What lies in such a volume may lie beside the manifest instead; the manifest's whole folder is never meant.
    """
    inside = PurePosixPath(DATA_MOUNT) / path
    volume = _volume_of(spec, str(inside))
    return volume is not None and volume.name not in folders.volumes and inside == PurePosixPath(volume.mount_path)


def _volume_of(spec: TrainingJobSpec, path: str) -> VolumeSpec | None:
    """Return the volume with the longest mount path that a path of a pod lies in."""
    holding = [v for v in spec.workers.volumes or () if PurePosixPath(path).is_relative_to(v.mount_path)]
    return max(holding, key=lambda volume: len(volume.mount_path), default=None)


def _local_path(spec: TrainingJobSpec, path: str, folders: Folders) -> str:
    if path == CODE_MOUNT:
        return str(folders.volumes[CODE_VOLUME])
    volume = _volume_of(spec, path)
    if volume is None or volume.name not in folders.volumes:
        return path
    return str(folders.volumes[volume.name] / PurePosixPath(path).relative_to(volume.mount_path))


def _data_root(spec: TrainingJobSpec, folders: Folders) -> Path:
    """Return the folder passed for the volume that the cluster would mount at /data, or the manifest's own folder."""
    volume = _volume_of(spec, DATA_MOUNT)
    return folders.volumes.get(volume.name, folders.data) if volume else folders.data


def _value(entry: Manifest, pod: Manifest) -> str:
    """Return the value of an environment variable, which may be a field of the pod itself or a Secret's."""
    if "valueFrom" not in entry:
        return str(entry.get("value", ""))
    if "fieldRef" not in entry["valueFrom"]:
        # There are no Secrets or ConfigMaps in a local run. The user sets a variable of the same name instead.
        return os.environ.get(entry["name"], "")
    path = entry["valueFrom"]["fieldRef"]["fieldPath"]
    field, _, key = path.removesuffix("']").partition("['")
    value: Any = pod
    for part in field.split("."):
        value = value.get(part, {})
    found = value.get(key) if key else value
    return found if isinstance(found, str) else ""
