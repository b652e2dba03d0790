"""Reading files from a mounted volume or an object store: one way for both, through fsspec.

Credentials and endpoints of an object store come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …). What goes
wrong on the way is translated here, once: what the user can mend becomes a DataError that names the field.
"""

import csv
import fcntl
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final

from trainwright.api.spec.paths import is_uri
from trainwright_worker.errors import DataError, InfrastructureError

_FIELD_CHARACTERS: Final = 1 << 28
"""Longest field of a CSV file; what goes on beyond that is rather a quote that nobody has closed."""
_RANGE: Final = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMPRESSED: Final = frozenset({".gz", ".bz2", ".xz"})
_PROTOCOLS: Final = frozenset({"s3", "gs", "az", "abfs", "http", "https"})
_AHEAD_BYTES: Final = 8 << 20
"""How much of a remote file is fetched at once when it is read from its beginning."""
_PASSING: Final = frozenset(
    {"ConnectTimeoutError", "ReadTimeoutError", "EndpointConnectionError", "ConnectionClosedError", "HTTPClientError"}
)
"""Errors of an object store's client that have nothing to do with what was asked for."""


@dataclass(frozen=True)
class Location:
    """A file or a folder that the spec names, directly or by a pattern.

    Attributes:
        path: Its path within its file system.
        name: How to speak of it: the path on this machine, or the URI.
        field: Field of the spec that leads to it.
        protocol: Protocol of its URI; None on a mounted volume.
    """

    path: str
    name: str
    field: str
    protocol: str | None = None

    @cached_property
    def system(self) -> Any:
        """The file system it lies in; fsspec keeps one per process and kind."""
        import fsspec  # noqa: PLC0415 - only jobs that read files need it

        if self.protocol is None:
            return fsspec.filesystem("file")
        try:
            return fsspec.filesystem(self.protocol)
        except ImportError as error:
            raise DataError(
                f"{self.field}: {self.name}: this worker cannot read {self.protocol}:// ({error})",
                "use s3://, or a worker image with that library",
            ) from error

    @property
    def suffix(self) -> str:
        """Its extension in lower case, without that of a compression."""
        path = Path(self.path)
        return Path(path.stem if path.suffix.lower() in _COMPRESSED else path.name).suffix.lower()

    @property
    def compressed(self) -> bool:
        """Whether its name says that it is compressed, so that it can only be read from its beginning."""
        return Path(self.path).suffix.lower() in _COMPRESSED

    def open(self, ahead: int = _AHEAD_BYTES) -> BinaryIO:
        """Return the file, open for reading from its beginning, decompressed if its name says that it is compressed.

        Args:
            ahead: How much of a remote file is fetched at once; what is skipped beyond that is not fetched.
        """
        with self.reading():
            file: BinaryIO = self.system.open(self.path, "rb", block_size=ahead, compression="infer")
        return file

    def read(self, begin: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes from `begin` up to `end` as they are stored. Safe from any thread."""
        with self.reading():
            content: bytes = self.system.cat_file(self.path, start=begin, end=end)
        return content

    def beside(self, path: str) -> "Location":
        """Return another path of the same file system."""
        name = path if self.protocol is None else f"{self.protocol}://{path}"
        return Location(path, name, self.field, self.protocol)

    def child(self, name: str) -> "Location":
        """Return an entry of this folder, there or not."""
        return self.beside(f"{self.path.rstrip('/')}/{name}")

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        with self.reading():
            return bool(self.system.exists(self.path))

    def is_folder(self) -> bool:
        """Whether it is a folder."""
        with self.reading():
            return bool(self.system.isdir(self.path))

    def files(self) -> list["Location"]:
        """Return the files under this folder at any depth, in the order of their paths."""
        with self.reading():
            return [self.beside(path) for path in sorted(self.system.find(self.path))]

    def folders(self) -> list["Location"]:
        """Return the folders in this folder, in the order of their names; hidden ones left out."""
        with self.reading():
            entries = self.system.ls(self.path, detail=True)
        paths = sorted(entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory")
        return [self.beside(path) for path in paths if not Path(path).name.startswith(".")]

    def matches(self) -> list["Location"]:
        """Return the files that fit this path as a pattern, in the order of their paths."""
        with self.reading():
            return [self.beside(path) for path in sorted(self.system.glob(self.path))]

    def stamp(self) -> list[str]:
        """Return what changes when the file does: its path, size and time or tag."""
        with self.reading():
            info = self.system.info(self.path)
        return [self.name, str(info.get("size")), str(info.get("ETag", info.get("mtime")))]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Translate what reading this place may raise."""
        try:
            yield
        except FileNotFoundError as error:
            raise DataError(f"{self.field}: {self.name} does not exist", self._remedy()) from error
        except PermissionError as error:
            hint = "check AWS_ACCESS_KEY_ID and what it may read" if self.protocol else "check the permissions"
            raise DataError(f"{self.field}: not allowed to read {self.name}: {error}", hint) from error
        except OSError as error:
            if type(error).__name__ in _PASSING or isinstance(error, ConnectionError | TimeoutError):
                raise InfrastructureError(f"{self.field}: cannot reach {self.name}: {error}") from error
            raise DataError(f"{self.field}: cannot read {self.name}: {error}") from error
        except Exception as error:
            names = {kind.__name__ for kind in type(error).__mro__}
            if names & _PASSING:
                raise InfrastructureError(f"{self.field}: cannot reach {self.name}: {error}") from error
            if names & {"BotoCoreError", "ClientError"}:
                hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in spec.workers.env"
                raise DataError(f"{self.field}: cannot read {self.name}: {error}", hint) from error
            raise

    def _remedy(self) -> str:
        if self.protocol is not None:
            return "check bucket and key, and AWS_ENDPOINT_URL if it is not Amazon's"
        return "mount the volume that holds the data with spec.workers.volumes, or correct the path"


def place(path: str, root: str, field: str) -> Location:
    """Return where a path of the spec leads, there or not.

    Args:
        path: As the spec gives it: an URI, an absolute path, or one that starts at `root`.
        root: The data root of the worker.
        field: Field of the spec that names it, for errors.

    Raises:
        DataError: The URI's protocol is unknown.
    """
    if not is_uri(path):
        local = str(Path(root, path))
        return Location(local, local, field)
    protocol, _, rest = path.partition("://")
    if protocol not in _PROTOCOLS:
        raise DataError(f"{field}: {path}: {protocol}:// is unknown", f"use one of {', '.join(sorted(_PROTOCOLS))}")
    # http file systems take the whole address for a path; object stores take bucket/key.
    return Location(path if protocol.startswith("http") else rest.rstrip("/"), path, field, protocol)


def find(path: str, root: str, field: str) -> Location:
    """Return an existing file or folder.

    Raises:
        DataError: Nothing is there.
    """
    location = place(path, root, field)
    if not location.exists():
        looked = "" if location.protocol else f" (looked at {location.name})"
        raise DataError(f"{field}: {path} does not exist{looked}", location._remedy())  # noqa: SLF001 - of this module
    return location


def find_all(path: str, root: str, field: str, suffixes: tuple[str, ...] = ()) -> list[Location]:
    """Return the files that a path stands for: itself, those in a folder, or those that fit its `*` and ranges.

    Args:
        path: As the spec gives it.
        root: The data root of the worker.
        field: Field of the spec that names it, for errors.
        suffixes: Extensions of the files wanted from a folder.

    Raises:
        DataError: There is no such file.
    """
    names = expand(path)
    places = [place(name, root, field) for name in names]
    if "*" in path:
        found = [match for pattern in places for match in pattern.matches()]
        if not found:
            raise DataError(f"{field}: no file fits {path} (looked at {places[0].name})")
        return found
    found = [find(name, root, field) for name in names]
    if len(found) > 1 or not found[0].is_folder():
        return found
    found = [file for file in places[0].files() if file.suffix in suffixes]
    if not found:
        raise DataError(f"{field}: the folder {places[0].name} holds no {', '.join(suffixes)} file")
    return found


def expand(path: str) -> list[str]:
    """Return the paths that ranges stand for: `a-{08..10}.tar` is a-08.tar, a-09.tar, a-10.tar."""
    found = _RANGE.search(path)
    if found is None:
        return [path]
    first, last = found.groups()
    step = 1 if int(first) <= int(last) else -1
    numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + step, step)]
    return [name for number in numbers for name in expand(path[: found.start()] + number + path[found.end() :])]


def csv_lines(file: BinaryIO) -> io.TextIOWrapper:
    """Return the lines of a CSV file as the csv module wants them, which by itself refuses fields of long texts."""
    csv.field_size_limit(_FIELD_CHARACTERS)
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock that a file stands for: of the processes of this machine, one at a time is inside."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
