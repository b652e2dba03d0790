"""Writes checkpoints in a background thread, one at a time."""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from trainwright.api.status import Checkpoint
from trainwright_worker.checkpoint.folder import CheckpointFolder
from trainwright_worker.checkpoint.staging import Copy, Staging, State
from trainwright_worker.errors import InfrastructureError, explain

Work = SimpleQueue[Callable[[], None] | None]
"""Queue of tasks for the writing thread; None ends the thread."""


class Writer:
    """Copies the state, and writes the copy in a background thread."""

    def __init__(self, folder: CheckpointFolder, done: Callable[[list[Checkpoint]], None]) -> None:
        """Start idle.

        Args:
            folder: The checkpoints of the job.
            done: Called from the writing thread, on rank 0, after every save, with all complete checkpoints.
        """
        self._folder = folder
        self._done = done
        self._staging = Staging()
        self._doing: Future[None] | None = None
        # The thread starts here and not with a save, because training would wait until a new thread gets a core.
        self._work: Work = SimpleQueue()
        threading.Thread(target=_serve, args=(self._work,), name="checkpoint", daemon=True).start()
        weakref.finalize(self, self._work.put, None)

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written; the next save would wait for it."""
        return self._doing is not None and not self._doing.done()

    def reserve(self, state: State) -> None:
        """Allocate memory for the copy of such a state in the background, so that the first save is faster.

        Args:
            state: This rank's live tensors; only their shapes matter.

        Raises:
            InfrastructureError: The previous save failed.
            NonFiniteError: The weights of the previous save were not finite.
        """
        if self.busy:
            return  # A save is in progress, so the memory is already allocated.
        self.wait()
        self._do(lambda: self._staging.reserve(state))

    def save(self, state: State, facts: dict[str, Any]) -> None:
        """Copy the state and start to write it. Waits for the previous save, if that is still being written.

        Args:
            state: This rank's live tensors.
            facts: Everything else, as JSON types.

        Raises:
            InfrastructureError: The previous save failed.
            NonFiniteError: The weights of the previous save were not finite.
        """
        self.wait()
        copy = self._staging.copy(state)
        self._do(lambda: self._write(copy, facts))

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is being written, or for at most `seconds`.

        Raises:
            InfrastructureError: The previous save failed.
            NonFiniteError: The weights of the previous save were not finite.
        """
        failure = None
        with suppress(TimeoutError):
            failure = None if self._doing is None else self._doing.exception(seconds)
        if isinstance(failure, OSError):
            raise InfrastructureError(
                f"cannot save a checkpoint: {failure}", "check the storage in spec.checkpoint"
            ) from failure
        if failure is not None:
            raise explain(failure) from failure

    def _do(self, task: Callable[[], None]) -> None:
        doing = self._doing = Future[None]()

        def do() -> None:
            try:
                task()
            except Exception as error:  # noqa: BLE001 - the training thread raises it
                doing.set_exception(error)
            else:
                doing.set_result(None)

        self._work.put(do)

    def _write(self, copy: Copy, facts: dict[str, Any]) -> None:
        saved = self._folder.write(copy, facts)
        if saved:
            self._done(saved)


def _serve(work: Work) -> None:
    """Run tasks until the writer is collected."""
    while (task := work.get()) is not None:
        task()
        del task  # The task references the writer, which could otherwise not be collected while this thread waits.
