"""Storage of a job's files, with one interface for folders on mounted volumes and prefixes in object stores.

Names are relative and use `/`. Files are written atomically, and are durable once `write` returns. Folders can be
renamed in a file system but not in an object store (`renames`), which matters to callers that need several files to
appear together. This module does not know what the files mean.
"""

import importlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast

from trainwright.api.spec.paths import is_uri
from trainwright_worker.errors import InfrastructureError, UnreachableError, UserError, WorkerError
from trainwright_worker.object_store import open_store

_PART_BYTES: Final = 64 * 1024 * 1024
"""Size of one request of a large upload."""
_UNFINISHED: Final = ".unfinished"

Part = bytes | memoryview
"""A part of a file's content."""


@dataclass(frozen=True)
class FileFacts:
    """Metadata of a file.

    Attributes:
        size: Size in bytes.
        modified: Time of the last write.
    """

    size: int
    modified: datetime


class Storage(Protocol):
    """Files under one root.

    Every method raises OSError if the storage fails, and FileNotFoundError if a file does not exist.
    """

    root: str
    """The folder or URI that all names are relative to."""
    renames: bool
    """Whether folders can be renamed atomically."""

    def open(self, name: str) -> BinaryIO:
        """Return a file opened for reading, which supports `seek`."""

    def write(self, name: str, parts: Iterable[Part]) -> None:
        """Write a file from its parts, atomically and durably."""

    def list(self, folder: str) -> list[str]:
        """Return the sorted names of files and folders directly in a folder; empty if the folder does not exist."""

    def walk(self, folder: str) -> dict[str, FileFacts]:
        """Return all files below a folder by their names relative to it."""

    def rename(self, folder: str, name: str) -> None:
        """Rename a folder; only if `renames` is true."""

    def delete(self, folder: str) -> None:
        """Delete a folder with its contents, if it exists."""


def open_storage(root: str) -> Storage:
    """Return the storage at a folder or URI; does no I/O."""
    return ObjectStorage(root) if is_uri(root) else FolderStorage(root)


def preload(root: str) -> None:
    """Import the storage's libraries in the agent, so that forked ranks inherit them and restarts are fast."""
    if is_uri(root):
        importlib.import_module("s3fs")


def read(storage: Storage, name: str) -> bytes:
    """Return the content of a file."""
    with storage.open(name) as file:
        return file.read()


def check_storage(storage: Storage, field: str) -> None:
    """Check before training that files can be written.

    Args:
        storage: The storage.
        field: Field of the spec that names it.

    Raises:
        UserError: It does not exist, or access is denied.
        InfrastructureError: The storage failed.
    """
    probe = f"{_UNFINISHED}-probe"
    try:
        storage.write(f"{probe}/empty", [b"probe"])
        storage.delete(probe)
    except OSError as error:
        raise _explain(error, f"{field}: cannot write to {storage.root}") from error


class FolderStorage:
    """A folder of a file system."""

    renames = True

    def __init__(self, root: str) -> None:
        """Prepare; does no I/O.

        Args:
            root: The folder, which is created by the first write.
        """
        self.root = root.rstrip("/") or "/"
        self._folder = Path(self.root)

    def open(self, name: str) -> BinaryIO:
        """Return a file opened for reading."""
        return (self._folder / name).open("rb")

    def write(self, name: str, parts: Iterable[Part]) -> None:
        """Write to a temporary file, flush it to the disk, and rename it."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{_UNFINISHED}-{path.name}")
        try:
            with temporary.open("wb", buffering=0) as file:
                for part in parts:
                    _write_all(file, part)
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)  # Free the space on a full disk.
            raise
        temporary.replace(path)
        _flush(path.parent)

    def list(self, folder: str) -> list[str]:
        """Return the names of files and folders directly in a folder."""
        try:
            return sorted(path.name for path in (self._folder / folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def walk(self, folder: str) -> dict[str, FileFacts]:
        """Return all files below a folder."""
        found = {}
        for place, _, names in os.walk(self._folder / folder):
            for name in names:
                path = Path(place, name)
                with suppress(FileNotFoundError):
                    facts = path.stat()
                    modified = datetime.fromtimestamp(facts.st_mtime, UTC)
                    found[str(path.relative_to(self._folder / folder))] = FileFacts(facts.st_size, modified)
        return found

    def rename(self, folder: str, name: str) -> None:
        """Rename a folder durably."""
        target = self._folder / name
        (self._folder / folder).rename(target)
        _flush(target.parent)

    def delete(self, folder: str) -> None:
        """Delete a folder."""
        shutil.rmtree(self._folder / folder, ignore_errors=True)


class ObjectStorage:
    """A prefix of an object store, through fsspec. Credentials come from the environment or the service account."""

    renames = False

    def __init__(self, root: str) -> None:
        """Connect lazily.

        Args:
            root: `s3://bucket/prefix`.
        """
        self.root = root.rstrip("/")
        self._scheme, _, self._prefix = self.root.partition("://")

    @cached_property
    def _system(self) -> Any:
        return open_store(self._scheme, self._prefix, use_listings_cache=False)

    def open(self, name: str) -> BinaryIO:
        """Return an object opened for reading; ranges are downloaded on demand."""
        with _as_os_errors():
            return cast("BinaryIO", self._system.open(self._key(name), "rb"))

    def write(self, name: str, parts: Iterable[Part]) -> None:
        """Upload an object, which exists once the upload is complete."""
        with _as_os_errors():
            file: Any = self._system.open(self._key(name), "wb", block_size=_PART_BYTES)
            try:
                for part in parts:
                    file.write(part)
            except BaseException:
                # Closing would complete the upload.
                file.discard()
                file.closed = True
                raise
            file.close()

    def list(self, folder: str) -> list[str]:
        """Return the names of objects and prefixes directly under a prefix."""
        key = self._key(folder)
        with _as_os_errors():
            try:
                entries = self._system.ls(key, detail=False)
            except FileNotFoundError:
                return []
        return sorted({entry.removeprefix(key).strip("/") for entry in entries} - {""})

    def walk(self, folder: str) -> dict[str, FileFacts]:
        """Return all objects below a prefix."""
        key = self._key(folder)
        with _as_os_errors():
            found = self._system.find(key, detail=True)
        return {
            name.removeprefix(key).strip("/"): FileFacts(facts["size"], facts["LastModified"].astimezone(UTC))
            for name, facts in found.items()
        }

    def rename(self, folder: str, name: str) -> None:
        """Not supported by object stores."""
        raise NotImplementedError

    def delete(self, folder: str) -> None:
        """Delete all objects below a prefix."""
        with _as_os_errors(), suppress(FileNotFoundError):
            self._system.rm(self._key(folder), recursive=True)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".rstrip("/")


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """Translate errors of the store's client to the exceptions that a file system would raise."""
    from botocore.exceptions import (  # noqa: PLC0415 - see ObjectStorage
        BotoCoreError,
        EndpointConnectionError,
        HTTPClientError,
        NoCredentialsError,
    )

    try:
        yield
    except NoCredentialsError as error:
        raise PermissionError(
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in workers.env"
        ) from error
    except (EndpointConnectionError, HTTPClientError) as error:
        raise ConnectionError(str(error)) from error
    except BotoCoreError as error:
        raise OSError(str(error)) from error


def _explain(error: OSError, what: str) -> WorkerError:
    if isinstance(error, (PermissionError, FileNotFoundError, NotADirectoryError)):
        return UserError(f"{what}: {error}", "check that the path exists and that the workers may write to it")
    kind = UnreachableError if isinstance(error, ConnectionError) else InfrastructureError
    return kind(f"{what}: {error}", "check the storage in spec.checkpoint")


def _write_all(file: Any, part: Part) -> None:
    """Write a whole part, because an unbuffered file may accept less than it is given."""
    view = memoryview(part).cast("B")
    while view:
        view = view[file.write(view) :]


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
