"""Reading files from a mounted volume or an object store: one way for both, through fsspec.

Credentials and endpoints of an object store come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …). What goes
wrong on the way is translated here, once: what the user can mend becomes a DataError that names the field.
"""

import csv
import fcntl
import glob
import io
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final

from trainwright.api.spec.paths import is_uri
from trainwright_worker.errors import DataError, UnreachableError
from trainwright_worker.object_store import open_store

_FIELD_CHARACTERS: Final = 1 << 28
"""Longest field of a CSV file; what goes on beyond that is rather a quote that nobody has closed."""
_HEADERS: Final = 10
"""How many repeated headers are named."""
_WILD: Final = re.compile(r"[*?\[]")
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
        size: Its size in bytes, if whatever led to it tells.
    """

    path: str
    name: str
    field: str
    protocol: str | None = None
    size: int | None = None

    @cached_property
    def system(self) -> Any:
        """The file system it lies in; fsspec keeps one per process and kind."""
        import fsspec  # noqa: PLC0415 - only jobs that read files need it

        if self.protocol is None:
            return fsspec.filesystem("file")
        try:
            return open_store(self.protocol, self.path)
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
        # A name in an old encoding opens its file as it is, but no message may hold it so.
        name = f"{self.protocol}://{path}" if self.protocol else os.fsencode(path).decode(errors="backslashreplace")
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
        """Return the files under this folder at any depth, in the order of their paths; hidden ones left out."""
        with self.reading():
            found = sorted(self._walk(self.path, frozenset()))
        return [
            replace(self.beside(path), size=size)
            for path, size in found
            if not _is_hidden(path.removeprefix(self.path))
        ]

    def _walk(self, folder: str, entered: frozenset[Path]) -> Iterator[tuple[str, int]]:
        """Yield the files under a folder with their sizes, and those under the folders that links lead to, which fsspec by itself does not enter."""
        for path, entry in self.system.find(folder, detail=True).items():
            if not (entry.get("islink") and self.system.isdir(path)):
                yield path, entry["size"] or 0
                continue
            target = Path(path).resolve()
            # A link to what holds it would never end.
            if target not in entered and not Path(path).parent.resolve().is_relative_to(target):
                yield from self._walk(path, entered | {target})

    def folders(self) -> list["Location"]:
        """Return the folders in this folder, linked ones too, in the order of their names; hidden ones left out.

        Raises:
            DataError: One has a name that is no UTF-8, so that it cannot be the name of a class.
        """
        with self.reading():
            entries = self.system.ls(self.path, detail=True)
            found = [
                entry["name"].rstrip("/")
                for entry in entries
                if entry["type"] == "directory" or (entry.get("islink") and self.system.isdir(entry["name"]))
            ]
        folders = [self.beside(path) for path in sorted(found) if not Path(path).name.startswith(".")]
        for folder in folders:
            if folder.path.encode(errors="replace").decode() != folder.path:
                raise DataError(f"{self.field}: the name of the folder {folder.name} is no UTF-8", "rename it")
        return folders

    def matches(self) -> list["Location"]:
        """Return the files that fit this path as a pattern, in the order of their paths; hidden ones only if it says so."""
        with self.reading():
            if self.protocol is None:  # fsspec would not enter linked folders.
                found = glob.glob(self.path, recursive=True, include_hidden=True)  # noqa: PTH207 - nor would pathlib
            else:
                found = self.system.glob(self.path)
        fixed = len(_WILD.split(self.path)[0].rpartition("/")[0])
        return [self.beside(path) for path in sorted(found) if not _is_hidden(path[fixed:], self.path)]

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
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            hint = "it is damaged or cut short: write or fetch it again"
            raise DataError(f"{self.field}: cannot read {self.name}: {error}", hint) from error
        except OSError as error:
            if type(error).__name__ in _PASSING or isinstance(error, ConnectionError | TimeoutError):
                raise UnreachableError(f"{self.field}: cannot reach {self.name}: {error}") from error
            raise DataError(f"{self.field}: cannot read {self.name}: {error}") from error
        except Exception as error:
            names = {kind.__name__ for kind in type(error).__mro__}
            if names & _PASSING:
                raise UnreachableError(f"{self.field}: cannot reach {self.name}: {error}") from error
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
        local = os.path.normpath(Path(root, path).absolute())  # as file systems name what lies below it
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


def list_left_out(path: str, root: str, field: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the extensions of the files in a folder that `find_all` leaves out; none if the path is no folder.

    Args:
        path: As the spec gives it.
        root: The data root of the worker.
        field: Field of the spec that names it, for errors.
        suffixes: Extensions of the files wanted from a folder.
    """
    folder = place(path, root, field)
    if "*" in path or len(expand(path)) > 1 or not folder.is_folder():
        return []
    return [file.suffix for file in folder.files() if file.suffix not in suffixes]


def expand(path: str) -> list[str]:
    """Return the paths that ranges stand for: `a-{08..10}.tar` is a-08.tar, a-09.tar, a-10.tar."""
    found = _RANGE.search(path)
    if found is None:
        return [path]
    first, last = found.groups()
    step = 1 if int(first) <= int(last) else -1
    numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + step, step)]
    return [name for number in numbers for name in expand(path[: found.start()] + number + path[found.end() :])]


def _is_hidden(below: str, pattern: str = "") -> bool:
    """Return whether a file is none of the data: `.ipynb_checkpoints/a.png`, or `_temporary/a.parquet`, which Spark leaves.

    Args:
        below: Its path from the folder that the spec names.
        pattern: The pattern that it fits, if any; a hidden name in there is wanted.
    """
    marks = (".", "_") if below.endswith(".parquet") else (".",)
    wanted = [part for part in pattern.split("/") if part.startswith(marks)]
    hidden = [part for part in below.split("/") if part.startswith(marks)]
    return not all(any(fnmatch(part, name) for name in wanted) for part in hidden)


def csv_rows(file: BinaryIO, location: Location, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line at which each row of a CSV file begins, and its values, without blank lines: first the header.

    Raises:
        DataError: It is no CSV, a row has more or fewer values than its header, or repeats the header.
    """
    csv.field_size_limit(_FIELD_CHARACTERS)
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    # Otherwise a quote that nobody closes would swallow what comes after it without a word.
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    headers = list[int]()
    line = 1
    try:
        names = _header(next(rows, []))
        known, some = sorted(names), set(names)
        yield rows.line_num, names
        line = rows.line_num + 1
        for row in rows:
            if row and len(row) != len(names):
                raise DataError(
                    f"{location.field}: line {line} of {location.name} has {len(row)} values, its header {len(names)}",
                    f"check {location.field.rpartition('.')[0]}.delimiter and the quotes in the file",
                )
            # The columns of a second header may be in another order. To look at one value first costs next to no time.
            if row and row[0].strip("\ufeff ") in some and sorted(_header(row)) == known:
                headers.append(line)
            elif row:
                yield line, row
            line = rows.line_num + 1
    except UnicodeDecodeError as error:
        raise DataError(
            f"{location.field}: cannot read {location.name} from line {line} on as UTF-8 CSV: {error}",
            _encoding_hint(error),
        ) from error
    except csv.Error as error:
        place = f"{location.name} from line {line} on"
        raise DataError(f"{location.field}: cannot read {place} as UTF-8 CSV: {error}") from error
    if headers:
        shown = ", ".join(map(str, headers[:_HEADERS])) + (", …" if len(headers) > _HEADERS else "")
        raise DataError(
            f"{location.field}: {location.name} has its header again in line {shown}, as files that were joined do",
            "remove these lines; if the columns after them are in another order, write all in one",
        )


def _header(row: list[str]) -> list[str]:
    return [name.strip("\ufeff").strip() for name in row]


def _encoding_hint(error: UnicodeDecodeError) -> str:
    """Return how to turn a file that is no UTF-8 into one."""
    if error.object.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it seems to be UTF-16: convert it with iconv -f UTF-16 -t UTF-8"
    if error.object.startswith(b"PK\x03\x04"):
        return "it seems to be a workbook of Excel or a zip file: export it as CSV"
    return "if it is Latin-1 or Windows-1252, convert it with iconv -f WINDOWS-1252 -t UTF-8"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock that a file stands for: of the processes of this machine, one at a time is inside."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
