"""TensorBoard event files in the job's folder, one per launch; readers combine them without repeated steps."""

import time
from collections.abc import Mapping
from pathlib import Path

from trainwright.api.spec.paths import is_uri
from trainwright_worker.storage import open_storage
from trainwright_worker.tracking.events import scalars_record, start_record, version_record
from trainwright_worker.tracking.tracker import Ending, Record, RunInfo


class TensorboardTracker:
    """Writes this launch's event file: appends to a file, or rewrites the whole object in an object store."""

    def __init__(self, folder: str, info: RunInfo) -> None:
        """Create the file.

        Args:
            folder: Folder of all event files of the job, or URI of their prefix.
            info: The run.
        """
        now = time.time()
        # Readers read the files of a folder in the order of their names.
        self._name = f"events.out.tfevents.{int(now):010d}.{info.attempt:06d}.{time.time_ns() % 10**9:09d}"
        self._folder = folder
        self._content = b""
        self._newest = info.resumed
        # Also without a checkpoint, because an earlier launch may have ended before its first one.
        self._add(version_record(now) + start_record(now, info.resumed + 1))

    def write(self, records: list[Record]) -> None:
        """Write one event per record."""
        content = b""
        for record in records:
            if record.step < self._newest:  # Training went back to a checkpoint, so discard the later steps.
                content += start_record(record.seconds, record.step)
            self._newest = record.step
            content += scalars_record(record.seconds, record.step, record.values)
        self._add(content)

    def close(self, ending: Ending, artifacts: Mapping[str, str]) -> None:
        """Do nothing, because every write is complete."""

    def _add(self, content: bytes) -> None:
        if is_uri(self._folder):
            self._content += content
            open_storage(self._folder).write(self._name, [self._content])
            return
        path = Path(self._folder, self._name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened for each write, so that readers on other nodes see the content.
        with path.open("ab") as file:
            file.write(content)
