"""TensorBoard event files in the job's folder, one per launch; readers join them into one course without repetition."""

import time
from collections.abc import Mapping
from pathlib import Path

from trainwright_worker.tracking.events import scalars_record, start_record, version_record
from trainwright_worker.tracking.tracker import Ending, Record, Story


class TensorboardTracker:
    """Appends to this launch's event file."""

    def __init__(self, folder: str, story: Story) -> None:
        """Begin the file.

        Args:
            folder: Folder of all event files of the job.
            story: The run.
        """
        now = time.time()
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Readers take the files of a folder in the order of their names.
        name = f"events.out.tfevents.{int(now):010d}.{story.attempt:06d}.{time.time_ns() % 10**9:09d}"
        self._path = Path(folder) / name
        begin = version_record(now)
        if story.resumed:
            begin += start_record(now, story.resumed + 1)
        self._append(begin)

    def write(self, records: list[Record]) -> None:
        """Append one event per record."""
        self._append(b"".join(scalars_record(record.seconds, record.step, record.values) for record in records))

    def close(self, ending: Ending, artifacts: Mapping[str, str]) -> None:
        """Do nothing: every write is complete."""

    def _append(self, content: bytes) -> None:
        # Opened anew each time: what is written is visible to readers on other nodes, and nothing is left to close.
        with self._path.open("ab") as file:
            file.write(content)
