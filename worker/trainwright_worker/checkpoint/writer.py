"""Writes checkpoints in the background, one at a time."""

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
"""What the writing thread is to do, one after the other; it ends with None."""


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
        self._doing: Future[None] | None = None
        # Training would have to wait until a thread that is started with a save has been given a core.
        self._work: Work = SimpleQueue()
        threading.Thread(target=_serve, args=(self._work,), name="checkpoint", daemon=True).start()
        weakref.finalize(self, self._work.put, None)

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written; the next save would wait for it."""
        return self._doing is not None and not self._doing.done()

    def reserve(self, state: State) -> None:
        """Allocate in the background what the copy of a state like this one will take: the first save waits less.

        Args:
            state: This rank's live tensors, of which only the shapes matter.

        Raises:
            InfrastructureError: The save before could not be written.
            NonFiniteError: Its weights were not numbers.
        """
        if self.busy:
            return  # A save has come first, and allocated it.
        self.wait()
        self._do(lambda: self._staging.reserve(state))

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
        self._do(lambda: self._write(copy, facts))

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is being written, or at most so many seconds.

        Raises:
            InfrastructureError: The last state could not be written.
            NonFiniteError: Its weights were not numbers.
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
            except Exception as error:  # noqa: BLE001 - whatever it is, the training thread will raise it
                doing.set_exception(error)
            else:
                doing.set_result(None)

        self._work.put(do)

    def _write(self, copy: Copy, facts: dict[str, Any]) -> None:
        saved = self._folder.write(copy, facts)
        if saved:
            self._done(saved)


def _serve(work: Work) -> None:
    """Do what comes until the writer is gone."""
    while (task := work.get()) is not None:
        task()
        del task  # It holds the writer, which could not go while this waits for more.
