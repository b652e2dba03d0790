"""Checkpoints on disk: written whole or not at all, verified before they are trusted, oldest removed first.

`checkpoints/step-00000100/` holds model, optimizer and per-rank state as safetensors, the rest as JSON, and a manifest
with the size and SHA-256 of each file. It is written under another name, every file and the folder are flushed, and only
then renamed: a folder by the right name is complete. A background thread does all of this on a copy of the state.

Why not torch.distributed.checkpoint: here every rank holds the same state, so rank 0 writes it alone and a job of one pod
needs no shared folder; and its metadata is a pickle, while nothing here can execute code. Sharded training will need it.
"""

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from trainwright.api.status import Checkpoint
from trainwright_worker.errors import InfrastructureError
from trainwright_worker.state import Snapshot

MANIFEST: Final = "manifest.json"
FACTS: Final = "state.json"
TENSOR_FILES: Final = ("model", "optimizer", "ranks")
_TEMPORARY: Final = ".writing-"
_FOLDER: Final = re.compile(r"step-(\d{8,})")

Files = dict[str, bytes]


class _BrokenError(Exception):
    """A checkpoint that cannot be trusted, and why."""


@dataclass(frozen=True)
class Found:
    """The newest valid checkpoint.

    Attributes:
        files: Content of its files, verified.
        skipped: Why newer ones were passed over, one sentence each.
    """

    files: Files | None
    skipped: list[str]


def encode(snapshot: Snapshot) -> Files:
    """Return a snapshot as files."""
    tensors: dict[str, dict[str, Tensor]] = {name: getattr(snapshot, name) for name in TENSOR_FILES}
    files = {f"{name}.safetensors": safetensors.torch.save(content) for name, content in tensors.items()}
    return files | {FACTS: json.dumps(snapshot.facts, indent=1).encode()}


def decode(files: Files) -> Snapshot:
    """Return the snapshot that `encode` wrote."""
    tensors = {name: safetensors.torch.load(files[f"{name}.safetensors"]) for name in TENSOR_FILES}
    facts: dict[str, Any] = json.loads(files[FACTS])
    return Snapshot(step=facts["step"], facts=facts, **tensors)


class CheckpointFolder:
    """The checkpoints of one job."""

    def __init__(self, job_folder: str, keep: int) -> None:
        """Remember where; nothing is touched yet.

        Args:
            job_folder: The folder of the job.
            keep: Number of checkpoints to keep.
        """
        self._folder = Path(job_folder) / "checkpoints"
        self._keep = keep

    def write(self, snapshot: Snapshot) -> Checkpoint:
        """Write a checkpoint durably, then remove the oldest.

        Raises:
            OSError: The storage failed; what was complete before still is.
        """
        files = encode(snapshot)
        manifest = {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in files.items()
        }
        content = json.dumps({"step": snapshot.step, "files": manifest}, indent=1).encode()
        final = self._folder / f"step-{snapshot.step:08}"
        temporary = self._folder / f"{_TEMPORARY}{final.name}"
        self._remove(temporary)
        temporary.mkdir(parents=True)
        for name, data in {**files, MANIFEST: content}.items():
            write_durably(temporary / name, data)
        _flush_folder(temporary)
        self._remove(final)  # Only ever a broken one, or the same step saved before the same restart.
        temporary.rename(final)
        _flush_folder(self._folder)
        self._prune()
        return _describe(final, content, sum(len(data) for data in files.values()))

    def find_newest(self) -> Found:
        """Return the newest checkpoint whose every file is as its manifest says, and clear what was half-written."""
        skipped: list[str] = []
        for folder in reversed(self._folders()):
            try:
                files = _read_verified(folder)
                decode(files)
            except (_BrokenError, OSError, ValueError, KeyError, SafetensorError) as error:
                skipped.append(f"checkpoint {folder.name} skipped: {error}")
                continue
            return Found(files, skipped)
        return Found(None, skipped)

    def list_verified(self) -> list[Checkpoint]:
        """Return the complete checkpoints, oldest first, judged by their manifests and file sizes."""
        found = []
        for folder in self._folders():
            try:
                content = (folder / MANIFEST).read_bytes()
                listed = json.loads(content)["files"]
                if all((folder / name).stat().st_size == entry["bytes"] for name, entry in listed.items()):
                    found.append(_describe(folder, content, sum(entry["bytes"] for entry in listed.values())))
            except (OSError, ValueError, KeyError):
                continue
        return found

    def clear_unfinished(self) -> None:
        """Remove what a process that was killed while saving or removing has left."""
        if self._folder.is_dir():
            for leftover in self._folder.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def _folders(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        found = [path for path in self._folder.iterdir() if _FOLDER.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))

    def _prune(self) -> None:
        for folder in self._folders()[: -self._keep]:
            self._remove(folder)

    def _remove(self, folder: Path) -> None:
        if not folder.exists():
            return
        # Renamed first, so that a kill half-way through leaves nothing that looks like a checkpoint.
        doomed = folder.with_name(f"{_TEMPORARY}old-{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


class Writer:
    """Writes snapshots in the background, one at a time."""

    def __init__(self, folder: CheckpointFolder, done: Callable[[Checkpoint], None]) -> None:
        """Start idle.

        Args:
            folder: Where to write.
            done: Called from the writing thread with every complete checkpoint.
        """
        self._folder = folder
        self._done = done
        self._thread: threading.Thread | None = None
        self._failure: OSError | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write a snapshot; waits for the one before, if that is still being written.

        Raises:
            InfrastructureError: The one before could not be written.
        """
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is being written, or at most so many seconds.

        Raises:
            InfrastructureError: The last snapshot could not be written.
        """
        if self._thread is not None:
            self._thread.join(seconds)
        if self._failure is not None:
            raise InfrastructureError(
                f"cannot save a checkpoint: {self._failure}", "check the volume in spec.checkpoint"
            ) from self._failure

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self._done(self._folder.write(snapshot))
        except OSError as error:
            self._failure = error


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and make sure that it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_verified(folder: Path) -> Files:
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise _BrokenError(f"it has no {MANIFEST}")
    files: Files = {}
    for name, entry in json.loads(manifest.read_bytes())["files"].items():
        # A manifest is data: a name in it must not lead out of the folder.
        if Path(name).name != name:
            raise _BrokenError(f"its manifest names {name!r}")
        path = folder / name
        content = path.read_bytes() if path.is_file() else b""
        if len(content) != entry["bytes"]:
            raise _BrokenError(f"{name} has {len(content)} bytes instead of {entry['bytes']}")
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise _BrokenError(f"{name} does not match its checksum")
        files[name] = content
    return files


def _describe(folder: Path, manifest: bytes, size: int) -> Checkpoint:
    saved_at = datetime.fromtimestamp((folder / MANIFEST).stat().st_mtime, UTC)
    step = int(folder.name.removeprefix("step-"))
    digest = hashlib.sha256(manifest).hexdigest()
    return Checkpoint(step=step, path=str(folder), bytes=size, sha256=digest, saved_at=saved_at)
