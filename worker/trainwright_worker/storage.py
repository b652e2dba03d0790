"""Where a job's files lie: a folder of a mounted volume, or a prefix of an object store, behind one small interface.

Names are relative and use `/`. A file appears whole or not at all, and is durable once `write` returns. Folders can be
renamed in a file system and cannot in an object store; whoever needs several files to appear together has to know
(`renames`). Nothing here decides what the files mean.
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
"""A piece of a file's content."""


@dataclass(frozen=True)
class FileFacts:
    """What a store says about a file.

    Attributes:
        size: Bytes.
        modified: When it was written.
    """

    size: int
    modified: datetime


class Storage(Protocol):
    """Files under one root.

    Every method raises OSError if the storage fails, FileNotFoundError if there is no such file.
    """

    root: str
    """The folder or URI under which all names lie."""
    renames: bool
    """Whether folders can be renamed, all of their files at once."""

    def open(self, name: str) -> BinaryIO:
        """Return a file opened for reading; it can be searched (`seek`)."""

    def write(self, name: str, parts: Iterable[Part]) -> None:
        """Write a file from its parts, whole and durably or not at all."""

    def list(self, folder: str) -> list[str]:
        """Return the names of the files and folders directly in a folder, sorted; none if there is no such folder."""

    def walk(self, folder: str) -> dict[str, FileFacts]:
        """Return every file below a folder, by its name relative to that folder."""

    def rename(self, folder: str, name: str) -> None:
        """Rename a folder; only where `renames`."""

    def delete(self, folder: str) -> None:
        """Delete a folder with all in it, if there is one."""


def open_storage(root: str) -> Storage:
    """Return the storage at a folder or URI; nothing is touched yet."""
    return ObjectStorage(root) if is_uri(root) else FolderStorage(root)


def preload(root: str) -> None:
    """Import what the storage will need, in the agent, so that its processes inherit it and restarts cost no import."""
    if is_uri(root):
        importlib.import_module("s3fs")


def read(storage: Storage, name: str) -> bytes:
    """Return the content of a file."""
    with storage.open(name) as file:
        return file.read()


def check_storage(storage: Storage, field: str) -> None:
    """Check, before training, that files can be written.

    Args:
        storage: Any storage.
        field: The field of the spec that asks for it.

    Raises:
        UserError: The place does not exist, or writing is not allowed.
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
        """Remember where.

        Args:
            root: The folder; made when first written to.
        """
        self.root = root.rstrip("/") or "/"
        self._folder = Path(self.root)

    def open(self, name: str) -> BinaryIO:
        """Return a file opened for reading."""
        return (self._folder / name).open("rb")

    def write(self, name: str, parts: Iterable[Part]) -> None:
        """Write under another name, flush to the disk, and rename."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{_UNFINISHED}-{path.name}")
        try:
            with temporary.open("wb", buffering=0) as file:
                for part in parts:
                    _write_all(file, part)
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)  # On a full disk it would keep out what still fits.
            raise
        temporary.replace(path)
        _flush(path.parent)

    def list(self, folder: str) -> list[str]:
        """Return what lies directly in a folder."""
        try:
            return sorted(path.name for path in (self._folder / folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def walk(self, folder: str) -> dict[str, FileFacts]:
        """Return every file below a folder."""
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
        """Rename a folder; when this returns, the name is durable."""
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
        """Return an object opened for reading; ranges are fetched as they are asked for."""
        with _as_os_errors():
            return cast("BinaryIO", self._system.open(self._key(name), "rb"))

    def write(self, name: str, parts: Iterable[Part]) -> None:
        """Upload an object; it exists once the upload is complete."""
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
        """Return what lies directly under a prefix."""
        key = self._key(folder)
        with _as_os_errors():
            try:
                entries = self._system.ls(key, detail=False)
            except FileNotFoundError:
                return []
        return sorted({entry.removeprefix(key).strip("/") for entry in entries} - {""})

    def walk(self, folder: str) -> dict[str, FileFacts]:
        """Return every object below a prefix."""
        key = self._key(folder)
        with _as_os_errors():
            found = self._system.find(key, detail=True)
        return {
            name.removeprefix(key).strip("/"): FileFacts(facts["size"], facts["LastModified"].astimezone(UTC))
            for name, facts in found.items()
        }

    def rename(self, folder: str, name: str) -> None:
        """Do not: an object store cannot."""
        raise NotImplementedError

    def delete(self, folder: str) -> None:
        """Delete every object below a prefix."""
        with _as_os_errors(), suppress(FileNotFoundError):
            self._system.rm(self._key(folder), recursive=True)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".rstrip("/")


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """Give what the client of the store raises the types that a file system would."""
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
        return UserError(f"{what}: {error}", "check the place and what the workers may do there")
    kind = UnreachableError if isinstance(error, ConnectionError) else InfrastructureError
    return kind(f"{what}: {error}", "check the storage in spec.checkpoint")


def _write_all(file: Any, part: Part) -> None:
    """Write a whole part: an unbuffered file may take less than it is given."""
    view = memoryview(part).cast("B")
    while view:
        view = view[file.write(view) :]


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
