"""The folder of one run: its newest job manifest, its logs, and all files that its workers write.

runs/digits-cnn-1/
  job.yaml                         the manifest with its UID and last status, which --resume reads
  logs/<pod>.log, controller.log
  pods/<pod>/                      what a kubelet would mount: config, token
  digits-cnn-<uid>/checkpoints/, results/
"""

import fcntl
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

from trainwright.api.job import FieldError, InvalidJobError
from trainwright.api.spec.paths import is_uri
from trainwright.cluster.port import Manifest
from trainwright.manifests import dump, load

ANNOTATION_DATA = "trainwright.dev/data-folder"
"""The folder to which dataset paths are relative, so that a run can be resumed without its manifest file."""

_JOB_FILE = "job.yaml"
_LOCK_FILE = ".lock"
_KEPT = ("name", "namespace", "uid", "creationTimestamp", "generation", "labels", "annotations")


class UnwritableError(Exception):
    """A run's folder cannot be written; `str()` of it says which, and why."""

    def __init__(self, folder: Path | str, error: OSError) -> None:
        super().__init__(f"cannot write to {folder}: {error.strerror or error}")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, locked by this process.

    Attributes:
        path: The absolute folder.
        lock: The open lock file; the lock ends with the process.
    """

    path: Path
    lock: IO[Any]

    @classmethod
    def create(cls, parent: Path, name: str) -> "RunFolder":
        """Create the first folder `<name>-<n>` that does not exist yet.

        Raises:
            InvalidJobError: No folder can be created there.
        """
        number = 1
        try:
            parent.absolute().mkdir(parents=True, exist_ok=True)
            while True:
                path = parent.absolute() / f"{name}-{number}"
                try:
                    path.mkdir()
                except FileExistsError:
                    number += 1
                else:
                    return cls._hold(path)
        except OSError as error:
            reason = f"no run can be kept in {parent}: {error.strerror or error}"
            raise InvalidJobError([FieldError("--dir", reason)]) from None

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Return an earlier run's folder.

        Raises:
            InvalidJobError: It holds no run, or another process uses it.
        """
        if not all((path / name).is_file() for name in (_JOB_FILE, _LOCK_FILE)):
            raise InvalidJobError([FieldError("--resume", f"{path} holds no run")])
        try:
            return cls._hold(path.absolute())
        except OSError as error:
            raise InvalidJobError([FieldError("--resume", str(UnwritableError(path, error)))]) from None

    @classmethod
    def _hold(cls, path: Path) -> "RunFolder":
        (path / "logs").mkdir(exist_ok=True)
        lock = (path / _LOCK_FILE).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidJobError([FieldError("--resume", f"{path} is in use by another process")]) from None
        return cls(path, lock)

    @property
    def shown(self) -> str:
        """The folder as a user would type it in the current folder."""
        return shorten(self.path)

    @property
    def controller_log(self) -> Path:
        """The log of the loop."""
        return self.path / "logs" / "controller.log"

    def log(self, pod: str) -> Path:
        """Return the log of a pod."""
        return self.path / "logs" / f"{pod}.log"

    @property
    def holds_job(self) -> bool:
        """Whether a job was saved and can be resumed."""
        return (self.path / _JOB_FILE).is_file()

    @property
    def newest_checkpoint(self) -> int | None:
        """The step of the newest checkpoint in the folder; None if there is none, or if the job keeps them elsewhere."""
        complete = self.path.glob("*/checkpoints/step-*/manifest.json")
        steps = (path.parent.name.removeprefix("step-") for path in complete)
        return max((int(step) for step in steps if step.isdigit()), default=None)

    def open_controller_log(self) -> TextIO:
        """Open the log of the loop. If the disk is full, log lines are lost.

        Raises:
            UnwritableError: It cannot be opened.
        """
        try:
            return io.TextIOWrapper(_LossyFile(self.controller_log, "a"), encoding="utf-8", write_through=True)
        except OSError as error:
            raise UnwritableError(self.shown, error) from None

    def load(self) -> Manifest:
        """Return the job as last saved."""
        job: Manifest = load((self.path / _JOB_FILE).read_text(encoding="utf-8"))[0]
        return job

    def save(self, job: Manifest) -> None:
        """Save the job atomically: after a crash, the file holds either the previous version or this one.

        Raises:
            UnwritableError: It cannot be saved. The previous version remains.
        """
        metadata = {key: job["metadata"][key] for key in _KEPT if key in job["metadata"]}
        kept = {**job, "metadata": metadata}
        draft = self.path / f".{_JOB_FILE}"
        try:
            draft.write_text(dump(kept), encoding="utf-8")
            draft.replace(self.path / _JOB_FILE)
        except OSError as error:
            raise UnwritableError(self.shown, error) from None


class _LossyFile(io.FileIO):
    """A file whose writes never fail, because a full disk must not end the loop that logs to it."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def shorten(path: Path | str) -> str:
    """Return a path relative to the current folder if it lies below it; a URI is returned unchanged."""
    if is_uri(str(path)):
        return str(path)
    path = Path(path)
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
