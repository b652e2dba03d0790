"""Reads files from mounted volumes and object stores through fsspec.

Credentials and endpoints of an object store come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …). Errors
are translated here: those that the user can fix become a DataError that names the field.
"""

import fcntl
import glob
import lzma
import os
import re
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final
from zipfile import BadZipFile, ZipFile

import xxhash

from trainwright.api.spec.paths import is_uri
from trainwright_worker.errors import DataError, UnreachableError
from trainwright_worker.object_store import open_store

_WILD: Final = re.compile(r"[*?\[]")
_RANGE: Final = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMPRESSED: Final = frozenset({".gz", ".bz2", ".xz"})
_PROTOCOLS: Final = frozenset({"s3", "gs", "az", "abfs", "http", "https"})
_BLOCKS: Final = 16
_BLOCK_BYTES: Final = 1 << 16
"""Of a large file, _BLOCKS blocks of this size determine its digest, evenly spread."""
_AHEAD_BYTES: Final = 8 << 20
"""Bytes of a remote file that one request downloads when the file is read sequentially."""
_TRANSIENT: Final = frozenset(
    {"ConnectTimeoutError", "ReadTimeoutError", "EndpointConnectionError", "ConnectionClosedError", "HTTPClientError"}
)
"""Transient errors of an object store's client, which do not depend on the request."""


@dataclass(frozen=True)
class Location:
    """A file or folder that the spec names, directly or by a pattern.

    Attributes:
        path: Its path within its file system.
        name: Its name for messages: the path on this machine, or the URI.
        field: Field of the spec that error messages name.
        protocol: Protocol of its URI; None on a mounted volume.
        size: Its size in bytes, if it is known from a listing.
    """

    path: str
    name: str
    field: str
    protocol: str | None = None
    size: int | None = None

    @cached_property
    def system(self) -> Any:
        """Its file system; fsspec keeps one instance per process and kind."""
        import fsspec  # noqa: PLC0415 - only jobs that read files need it

        if self.protocol is None:
            return fsspec.filesystem("file")
        try:
            return open_store(self.protocol, self.path)
        except ImportError as error:
            raise DataError(
                f"{self.field}: {self.name}: this worker cannot read {self.protocol}:// ({error})",
                "use s3://, or a worker image with the library for this protocol",
            ) from error

    @property
    def suffix(self) -> str:
        """Its extension in lower case, without that of compression."""
        path = Path(self.path)
        return Path(path.stem if path.suffix.lower() in _COMPRESSED else path.name).suffix.lower()

    @property
    def compressed(self) -> bool:
        """Whether it is compressed according to its name, so that it can only be read sequentially."""
        return Path(self.path).suffix.lower() in _COMPRESSED

    def open(self, ahead: int = _AHEAD_BYTES) -> BinaryIO:
        """Return the file opened for sequential reading, decompressed if it is compressed according to its name.

        Args:
            ahead: Bytes of a remote file that one request downloads. A skipped range beyond that is not downloaded.
        """
        with self.reading():
            self._check_zip()
            file: BinaryIO = self.system.open(self.path, "rb", block_size=ahead, compression="infer")
        return file

    def _check_zip(self) -> None:
        """Check that a zip file contains a single file, because only the first one would be read."""
        if not self.path.lower().endswith(".zip"):
            return
        with self.system.open(self.path, "rb") as file:
            try:
                with ZipFile(file) as archive:
                    names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
            except BadZipFile as error:
                raise DataError(f"{self.field}: cannot read {self.name} as a zip file: {error}") from error
        if len(names) != 1:
            raise DataError(
                f"{self.field}: {self.name} contains {len(names):,} files, but a zip file must contain one",
                "extract it, and name the file or the folder",
            )

    def read(self, begin: int | None = None, end: int | None = None) -> bytes:
        """Return the stored bytes from `begin` up to `end`. Thread-safe."""
        with self.reading():
            content: bytes = self.system.cat_file(self.path, start=begin, end=end)
        return content

    def beside(self, path: str) -> "Location":
        """Return another path in the same file system."""
        # A name that is not valid UTF-8 can be opened unchanged, but must be escaped in messages.
        name = f"{self.protocol}://{path}" if self.protocol else os.fsencode(path).decode(errors="backslashreplace")
        return Location(path, name, self.field, self.protocol)

    def child(self, name: str) -> "Location":
        """Return an entry of this folder, which need not exist."""
        return self.beside(f"{self.path.rstrip('/')}/{name}")

    def exists(self) -> bool:
        """Whether it exists."""
        with self.reading():
            return bool(self.system.exists(self.path))

    def is_folder(self) -> bool:
        """Whether it is a folder."""
        with self.reading():
            return bool(self.system.isdir(self.path))

    def files(self) -> list["Location"]:
        """Return the files under this folder at any depth, sorted by path, without hidden ones."""
        with self.reading():
            found = sorted(self._walk(self.path, frozenset()))
            found = [entry for entry in found if not _is_hidden(entry[0].removeprefix(self.path))]
            linked = {path for path, _, linked in found if linked}
            listed = set(_without_aliases([path for path, _, _ in found], linked, self.path))
        return [replace(self.beside(path), size=size) for path, size, _ in found if path in listed]

    def _walk(self, folder: str, entered: frozenset[Path]) -> Iterator[tuple[str, int, bool]]:
        """Yield the files under a folder with their sizes and whether a link leads to them.

        Linked folders are entered, which fsspec does not do.
        """
        for path, entry in self.system.find(folder, detail=True).items():
            link = bool(entry.get("islink"))
            if not (link and self.system.isdir(path)):
                yield path, entry["size"] or 0, link or bool(entered)
                continue
            target = Path(path).resolve()
            # A link to a parent folder would never end.
            if target not in entered and not Path(path).parent.resolve().is_relative_to(target):
                yield from self._walk(path, entered | {target})

    def folders(self) -> list["Location"]:
        """Return the folders in this folder, including linked ones, sorted by name, without hidden ones.

        Raises:
            DataError: The name of a folder is not valid UTF-8, so it cannot be the name of a class.
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
                raise DataError(f"{self.field}: the name of the folder {folder.name} is not valid UTF-8", "rename it")
        return folders

    def own_files(self) -> list[str]:
        """Return the names of the files directly in this folder, sorted, without hidden ones."""
        with self.reading():
            entries = self.system.ls(self.path, detail=True)
        names = sorted(entry["name"] for entry in entries if entry["type"] == "file")
        return [self.beside(name).name for name in names if not Path(name).name.startswith(".")]

    def matches(self) -> list["Location"]:
        """Return the files that match this path as a pattern, sorted; hidden ones only if the pattern includes them."""
        with self.reading():
            if self.protocol is None:  # fsspec does not enter linked folders.
                found = glob.glob(self.path, recursive=True, include_hidden=True)  # noqa: PTH207 - nor does pathlib
            else:
                found = self.system.glob(self.path)
        fixed = len(_WILD.split(self.path)[0].rpartition("/")[0])
        found = [path for path in found if not _is_hidden(path[fixed:], self.path)]
        if self.protocol is None:
            root = self.path[:fixed]
            real = os.path.realpath(root)
            linked = {path for path in found if os.path.realpath(path) != real + path[fixed:]}
            found = _without_aliases(found, linked, root)
        return [self.beside(path) for path in sorted(found)]

    def stamp(self) -> list[str]:
        """Return its name, size and modification time or tag, which change when the file changes."""
        with self.reading():
            info = self.system.info(self.path)
        return [self.name, str(info.get("size")), str(info.get("ETag", info.get("mtime")))]

    def digest(self, *, whole: bool = True) -> str:
        """Return the hash of its size and some of its blocks; of a remote file, of its size and the store's tag.

        Args:
            whole: Whether to read blocks of a file on a volume; otherwise only its size is used.
        """
        _, size, tag = self.stamp()
        found = xxhash.xxh3_128(size.encode())
        if self.protocol is not None:
            found.update(tag.encode())
        elif whole:
            with self.reading(), Path(self.path).open("rb") as file:
                last = max(0, int(size) - _BLOCK_BYTES)
                for number in range(_BLOCKS):
                    file.seek(last * number // (_BLOCKS - 1))
                    found.update(file.read(_BLOCK_BYTES))
        return found.hexdigest()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Translate the errors of reading this location."""
        try:
            yield
        except FileNotFoundError as error:
            raise DataError(f"{self.field}: {self.name} does not exist", self._remedy()) from error
        except PermissionError as error:
            hint = "check AWS_ACCESS_KEY_ID and its permissions" if self.protocol else "check the permissions"
            raise DataError(f"{self.field}: access to {self.name} is denied: {error}", hint) from error
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            hint = "it is damaged or truncated: write or download it again"
            raise DataError(f"{self.field}: cannot read {self.name}: {error}", hint) from error
        except OSError as error:
            if type(error).__name__ in _TRANSIENT or isinstance(error, ConnectionError | TimeoutError):
                raise UnreachableError(f"{self.field}: cannot reach {self.name}: {error}") from error
            raise DataError(f"{self.field}: cannot read {self.name}: {error}") from error
        except Exception as error:
            names = {kind.__name__ for kind in type(error).__mro__}
            if names & _TRANSIENT:
                raise UnreachableError(f"{self.field}: cannot reach {self.name}: {error}") from error
            if names & {"BotoCoreError", "ClientError"}:
                hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in spec.workers.env"
                raise DataError(f"{self.field}: cannot read {self.name}: {error}", hint) from error
            raise

    def _remedy(self) -> str:
        if self.protocol is not None:
            return "check bucket and key, and AWS_ENDPOINT_URL if the store is not Amazon S3"
        return "mount the volume that holds the data with spec.workers.volumes, or correct the path"


def place(path: str, root: str, field: str) -> Location:
    """Return the location of a path of the spec, which need not exist.

    Args:
        path: The path in the spec: a URI, an absolute path, or a path relative to `root`.
        root: The data root of the worker.
        field: Field of the spec that error messages name.

    Raises:
        DataError: The URI's protocol is unknown.
    """
    if not is_uri(path):
        local = os.path.normpath(Path(root, path).absolute())  # Normalized, like the paths in listings.
        return Location(local, local, field)
    protocol, _, rest = path.partition("://")
    if protocol not in _PROTOCOLS:
        raise DataError(
            f"{field}: {path}: the protocol {protocol}:// is unknown", f"use one of {', '.join(sorted(_PROTOCOLS))}"
        )
    # The path is the whole address for http, and bucket/key for object stores.
    return Location(path if protocol.startswith("http") else rest.rstrip("/"), path, field, protocol)


def find(path: str, root: str, field: str) -> Location:
    """Return an existing file or folder.

    Raises:
        DataError: It does not exist.
    """
    location = place(path, root, field)
    if not location.exists():
        looked = "" if location.protocol else f" (looked at {location.name})"
        raise DataError(f"{field}: {path} does not exist{looked}", location._remedy())  # noqa: SLF001 - of this module
    return location


def find_all(path: str, root: str, field: str, suffixes: tuple[str, ...] = ()) -> list[Location]:
    """Return the files of a path: the file itself, those in a folder, or those that match its `*` and ranges.

    Args:
        path: The path in the spec.
        root: The data root of the worker.
        field: Field of the spec that error messages name.
        suffixes: Extensions of the files to return from a folder.

    Raises:
        DataError: There is no such file.
    """
    names = expand(path)
    places = [place(name, root, field) for name in names]
    if "*" in path:
        # Patterns with ranges overlap: of `part-{1..10}*`, `part-1*` includes part-10.
        found = list(dict.fromkeys(match for pattern in places for match in pattern.matches()))
        if not found:
            raise DataError(f"{field}: no file matches {path} (looked at {places[0].name})")
        return found
    found = [find(name, root, field) for name in names]
    if len(found) > 1 or not found[0].is_folder():
        return found
    found = [file for file in places[0].files() if file.suffix in suffixes]
    if not found:
        raise DataError(f"{field}: the folder {places[0].name} contains no {', '.join(suffixes)} files")
    return found


def list_ignored_files(path: str, root: str, field: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the extensions of the files in a folder that `find_all` ignores; empty if the path is not a folder.

    Args:
        path: The path in the spec.
        root: The data root of the worker.
        field: Field of the spec that error messages name.
        suffixes: Extensions of the files that are not ignored.
    """
    folder = place(path, root, field)
    if "*" in path or len(expand(path)) > 1 or not folder.is_folder():
        return []
    return [file.suffix for file in folder.files() if file.suffix not in suffixes]


def expand(path: str) -> list[str]:
    """Return the paths of a path with ranges: `a-{08..10}.tar` is a-08.tar, a-09.tar, a-10.tar."""
    found = _RANGE.search(path)
    if found is None:
        return [path]
    first, last = found.groups()
    step = 1 if int(first) <= int(last) else -1
    numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + step, step)]
    return [name for number in numbers for name in expand(path[: found.start()] + number + path[found.end() :])]


def _without_aliases(paths: list[str], linked: Collection[str], root: str) -> list[str]:
    """Drop links to files that are listed themselves, too: their samples would count twice and be in several splits.

    Args:
        paths: Files of a mounted volume, or of an object store, which has no links.
        linked: Those to which a link below `root` leads.
        root: The folder that contains all of them.
    """
    if not linked:
        return paths
    real = os.path.realpath(root)
    own = {real + path[len(root) :] for path in paths if path not in linked}
    return [path for path in paths if path not in linked or os.path.realpath(path) not in own]


def _is_hidden(below: str, pattern: str = "") -> bool:
    """Return whether a file is hidden and not data, such as `.ipynb_checkpoints/a.png` or Spark's `_temporary/a`.

    Args:
        below: Its path relative to the folder that the spec names.
        pattern: The pattern that it matches, if any; hidden names that the pattern contains are not hidden.
    """
    marks = (".", "_") if below.endswith(".parquet") else (".",)
    wanted = [part for part in pattern.split("/") if part.startswith(marks)]
    hidden = [part for part in below.split("/") if part.startswith(marks)]
    return not all(any(fnmatch(part, name) for name in wanted) for part in hidden)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, among the processes of this machine."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
