"""The results folder, on a volume or in an object store. Every file in it is written atomically."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from trainwright_worker.storage import open_storage

_PART: Final = 64 * 1024 * 1024


class ResultsFolder:
    """The `results` folder of a job.

    Attributes:
        path: Its path or URI, as the workers see it.
    """

    def __init__(self, job_folder: str) -> None:
        self.path = f"{job_folder}/results"
        self._storage = open_storage(self.path)

    def write(self, name: str, content: bytes) -> str:
        """Write a file, replacing that of an earlier launch, and return its path.

        Args:
            name: Path inside the folder.
            content: The whole file.
        """
        self._storage.write(name, [content])
        return f"{self.path}/{name}"

    def publish(self, name: str, source: Path) -> str:
        """Copy a local file into the folder, and return its path there.

        Args:
            name: Path inside the folder.
            source: The file.
        """
        self._storage.write(name, _parts(source))
        return f"{self.path}/{name}"


def _parts(source: Path) -> Iterator[bytes]:
    with source.open("rb") as file:
        while part := file.read(_PART):
            yield part
