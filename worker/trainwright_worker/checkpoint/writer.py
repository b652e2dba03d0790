"""Writes checkpoints in the background, one at a time."""

import threading
from collections.abc import Callable
from typing import Any

from trainwright.api.status import Checkpoint
from trainwright_worker.checkpoint.folder import CheckpointFolder
from trainwright_worker.checkpoint.staging import Staging, State
from trainwright_worker.errors import InfrastructureError, explain


class Writer:
    """Copies the state, and has a thread write the copy."""

    def __init__(self, folder: CheckpointFolder, done: Callable[[list[Checkpoint]], None]) -> None:
        """Start idle.

        Args:
            folder: Where to write.
            done: Called from the writing thread, on rank 0, after every save, with all complete checkpoints.
        """
        self._folder = folder
        self._done = done
        self._staging = Staging()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written; the next save would wait for it."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, state: State, facts: dict[str, Any]) -> None:
        """Copy the state and begin to write it; waits for the save before, if that is still being written.

        Args:
            state: This rank's live tensors.
            facts: Everything else, as JSON types.

        Raises:
            InfrastructureError: The save before could not be written.
            NonFiniteError: Its weights were not numbers.
        """
        self.wait()
        copy = self._staging.copy(state)
        self._thread = threading.Thread(
            target=lambda: self._write(lambda: self._folder.write(copy, facts)), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is being written, or at most so many seconds.

        Raises:
            InfrastructureError: The last state could not be written.
            NonFiniteError: Its weights were not numbers.
        """
        if self._thread is not None:
            self._thread.join(seconds)
        if isinstance(self._failure, OSError):
            raise InfrastructureError(
                f"cannot save a checkpoint: {self._failure}", "check the storage in spec.checkpoint"
            ) from self._failure
        if self._failure is not None:
            raise explain(self._failure) from self._failure

    def _write(self, write: Callable[[], list[Checkpoint]]) -> None:
        try:
            saved = write()
            if saved:
                self._done(saved)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training thread will raise it
            self._failure = error
