"""The folder of results: every file in it is written whole or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PART: Final = 64 * 1024 * 1024


class ResultsFolder:
    """The `results` folder of a job.

    Attributes:
        path: Where it lies, as the workers see it.
    """

    def __init__(self, job_folder: str) -> None:
        self.path = f"{job_folder}/results"

    def write(self, name: str, content: bytes) -> str:
        """Write a file, replacing the one of an earlier launch, and return its path.

        Args:
            name: Path inside the folder.
            content: The whole file.
        """
        return self._write(name, iter([content]))

    def publish(self, name: str, source: Path) -> str:
        """Write a copy of a file of this machine, and return its path.

        Args:
            name: Path inside the folder.
            source: The file.
        """
        return self._write(name, _parts(source))

    def _write(self, name: str, parts: Iterator[bytes]) -> str:
        path = Path(self.path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.writing")
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        return str(path)


def _parts(source: Path) -> Iterator[bytes]:
    with source.open("rb") as file:
        while part := file.read(_PART):
            yield part
