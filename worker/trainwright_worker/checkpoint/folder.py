"""The checkpoints of one job: writes them with all ranks, finds the newest valid one, and removes old ones."""

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from trainwright.api.status import Checkpoint
from trainwright_worker.checkpoint.manifest import (
    DTYPE_NAMES,
    FACTS,
    MANIFEST,
    Checksum,
    Chunk,
    Entry,
    FileEntry,
    Manifest,
    digest,
)
from trainwright_worker.checkpoint.plans import box_of, decode_plan, encode_plan
from trainwright_worker.checkpoint.staging import Copy
from trainwright_worker.checkpoint.tensors import write_tensors
from trainwright_worker.distributed.ranks import Ranks
from trainwright_worker.errors import NON_FINITE_HINT, NonFiniteError
from trainwright_worker.storage import Storage, read

PARENT: Final = "checkpoints"
_TEMPORARY: Final = ".writing-"
_NAME: Final = re.compile(r"step-(\d{8,})")
_READ_BYTES: Final = 16 * 1024 * 1024
_READERS: Final = 4


@dataclass(frozen=True)
class Found:
    """A checkpoint whose files all match its manifest.

    Attributes:
        folder: Its folder, relative to the storage.
        manifest: Its manifest.
        facts: The state that is not tensors, as JSON types.
    """

    folder: str
    manifest: Manifest
    facts: dict[str, Any]


@dataclass(frozen=True)
class Written:
    """The files that one rank has written, and the positions of its tensor parts in them."""

    files: dict[str, FileEntry]
    chunks: dict[str, Chunk]


class CheckpointFolder:
    """The checkpoints of one job, seen from a rank that writes them.

    Attributes:
        storage: The folder of the job.
        shared: Whether all ranks write and read together; otherwise only rank 0 does.
    """

    def __init__(self, storage: Storage, keep: int, ranks: Ranks | None = None, *, keep_best: bool = False) -> None:
        """Prepare; does no I/O.

        Args:
            storage: The folder of the job.
            keep: Number of checkpoints to keep.
            ranks: The ranks that write and read together; by default this one alone.
            keep_best: Whether to keep the checkpoint of the best evaluation, however old.
        """
        self.storage = storage
        self._keep = keep
        self._keep_best = keep_best
        self._ranks = ranks or Ranks()
        self.shared = self._ranks.size > 1

    def write(self, copy: Copy, facts: dict[str, Any]) -> list[Checkpoint]:
        """Write a checkpoint durably, then remove old ones and those of later steps. All ranks must call this.

        Args:
            copy: This rank's part of the tensors.
            facts: The state that is not tensors, as JSON types: `step`, `best` and other entries. Those of rank 0 are
                written.

        Returns:
            On rank 0, all complete checkpoints, this one last.

        Raises:
            OSError: The storage failed, on this rank or another; earlier checkpoints are still complete.
            NonFiniteError: A weight is not finite; such a state is not saved.
        """
        copy.wait()
        step = facts["step"]
        final = checkpoint_name(step)
        folder = self._unfinished(final)
        plans = self._together(lambda: self._begin(final, folder, copy))
        # Every rank computes the same global plan, so it does not have to be broadcast.
        planner = DefaultSavePlanner(flatten_state_dict=False, dedup_save_to_lowest_rank=True)
        decided, metadata = planner.create_global_plan([decode_plan(plan) for plan in plans])
        mine = [item.index.fqn for item in decided[self._ranks.rank].items]
        replies = self._together(lambda: _encode(self._write_part(folder, copy, mine, step)))
        if not self._ranks.leads:
            return []
        content = json.dumps(facts, indent=1).encode()
        self.storage.write(f"{folder}/{FACTS}", [content])
        manifest = _describe(facts, digest(content), metadata, [_decode(reply) for reply in replies])
        self.storage.write(f"{folder}/{MANIFEST}", [manifest.model_dump_json(by_alias=True).encode()])
        if self.storage.renames:
            self.storage.rename(folder, f"{PARENT}/{final}")
        self._prune(manifest)
        return self.list_complete()

    def copy(self, source: Storage, found: Found) -> None:
        """Copy a checkpoint of another job. Only rank 0 calls this.

        Raises:
            OSError: One of the two storages failed.
        """
        final = checkpoint_name(found.manifest.step)
        folder = self._unfinished(final)
        self.storage.delete(folder)
        self._remove(final)  # At most an invalid checkpoint.
        for name in (*found.manifest.files, MANIFEST):
            with source.open(f"{found.folder}/{name}") as file:
                self.storage.write(f"{folder}/{name}", iter(partial(file.read, _READ_BYTES), b""))
        if self.storage.renames:
            self.storage.rename(folder, f"{PARENT}/{final}")

    def find_newest(self) -> tuple[Found | None, list[str]]:
        """Return the newest valid checkpoint, and for each newer one the reason why it was skipped.

        All ranks must call this; each verifies some of the files.
        """
        skipped: list[str] = []
        listed = self._ranks.share(json.dumps(self._names() if self._ranks.leads else []).encode())[0]
        for name in reversed(json.loads(listed)):
            found, reason = self.verify(f"{PARENT}/{name}")
            if found is not None:
                return found, skipped
            skipped.append(f"checkpoint {name} skipped: {reason}")
        return None, skipped

    def find(self, step: int) -> tuple[Found | None, str]:
        """Return the checkpoint of a step, or the reason why it is invalid. All ranks must call this."""
        return self.verify(f"{PARENT}/{checkpoint_name(step)}")

    def verify(self, folder: str) -> tuple[Found | None, str]:
        """Return the checkpoint in a folder, or the reason why it is invalid. All ranks must call this."""
        try:
            manifest = Manifest.model_validate_json(read(self.storage, f"{folder}/{MANIFEST}"))
            reason = self._verify_share(folder, manifest)
            facts = json.loads(read(self.storage, f"{folder}/{FACTS}")) if not reason else {}
        except FileNotFoundError:
            reason = f"it has no {MANIFEST}"
        except (OSError, ValueError) as error:
            reason = f"it cannot be read: {str(error).splitlines()[0]}"
        reasons = [other.decode() for other in self._ranks.share(reason.encode())]
        if any(reasons):
            return None, next(reason for reason in reasons if reason)
        return Found(folder, manifest, facts), ""

    def list_complete(self) -> list[Checkpoint]:
        """Return the complete checkpoints, oldest first, according to their manifests and the sizes of their files."""
        files = self.storage.walk(PARENT)
        complete: list[tuple[str, bytes, Manifest]] = []
        for name in _sort({file.partition("/")[0] for file in files}):
            try:
                content = read(self.storage, f"{PARENT}/{name}/{MANIFEST}")
                manifest = Manifest.model_validate_json(content)
            except (OSError, ValueError):
                continue
            if all(
                (held := files.get(f"{name}/{key}")) and held.size == file.bytes for key, file in manifest.files.items()
            ):
                complete.append((name, content, manifest))
        best = complete[-1][2].best_step if complete else None
        return [
            Checkpoint(
                step=manifest.step,
                path=f"{self.storage.root}/{PARENT}/{name}",
                bytes=manifest.size,
                sha256=hashlib.sha256(content).hexdigest(),
                saved_at=files[f"{name}/{MANIFEST}"].modified.replace(microsecond=0),
                best=manifest.step == best,
            )
            for name, content, manifest in complete
        ]

    def clear_unfinished(self) -> None:
        """Remove the remains of saves and removals that were interrupted."""
        for name in self.storage.list(PARENT):
            folder = f"{PARENT}/{name}"
            unfinished = not self.storage.renames and MANIFEST not in self.storage.list(folder)
            if name.startswith(_TEMPORARY) or unfinished:
                self.storage.delete(folder)

    def _unfinished(self, final: str) -> str:
        """Return the folder in which a checkpoint is written."""
        return f"{PARENT}/{_TEMPORARY}{final}" if self.storage.renames else f"{PARENT}/{final}"

    def _begin(self, final: str, folder: str, copy: Copy) -> bytes:
        if self._ranks.leads:
            self.storage.delete(folder)
            self._remove(final)  # At most an invalid checkpoint, or the same step saved before a restart.
        return encode_plan(copy.plan)

    def _write_part(self, folder: str, copy: Copy, names: list[str], step: int) -> Written:
        part = f"-{self._ranks.rank:05}" if self._ranks.size > 1 else ""
        files: dict[str, FileEntry] = {}
        chunks: dict[str, Chunk] = {}
        boxes = {item.index.fqn: box_of(item) for item in copy.plan.items}
        for kind in sorted({name.partition(".")[0] for name in names}):
            held = {name.partition(".")[2]: copy.tensors[name] for name in names if name.partition(".")[0] == kind}
            if kind == "model":
                _check_finite(held, step)
            file = f"{kind}{part}.safetensors"
            files[file], starts = write_tensors(self.storage, f"{folder}/{file}", held)
            for name, start in starts.items():
                box = boxes[f"{kind}.{name}"]
                chunks[f"{kind}.{name}"] = Chunk(
                    file=file, start=start, offsets=list(box.offsets), sizes=list(box.sizes)
                )
        return Written(files, chunks)

    def _together(self, work: Callable[[], bytes]) -> list[bytes]:
        """Return the results of `work` from all ranks; if it fails on one rank, raise the error on all of them."""
        try:
            reply = b"+" + work()
        except NonFiniteError as error:
            reply = b"?" + error.message.encode()
        except OSError as error:
            reply = b"-" + str(error).encode()
        replies = self._ranks.share(reply)
        for other in replies:
            if other.startswith(b"?"):
                raise NonFiniteError(other[1:].decode(), NON_FINITE_HINT)
            if other.startswith(b"-"):
                raise OSError(other[1:].decode())
        return [other[1:] for other in replies]

    def _verify_share(self, folder: str, manifest: Manifest) -> str:
        """Verify this rank's share of the files; return the first problem, or an empty string."""
        names = sorted(manifest.files)[self._ranks.rank :: self._ranks.size]
        with ThreadPoolExecutor(_READERS) as readers:
            wrong = readers.map(lambda name: self._verify_file(folder, name, manifest.files[name]), names)
        return next((reason for reason in wrong if reason), "")

    def _verify_file(self, folder: str, name: str, entry: FileEntry) -> str:
        # The manifest is untrusted input: a name in it must not point outside the folder.
        if "/" in name or name.startswith("."):
            return f"its manifest has the invalid file name {name!r}"
        size, checksum = 0, Checksum()
        try:
            with self.storage.open(f"{folder}/{name}") as file:
                while content := file.read(_READ_BYTES):
                    size += len(content)
                    checksum.update(content)
        except FileNotFoundError:
            return f"{name} is missing"
        if size != entry.bytes:
            return f"{name} has {size} bytes instead of {entry.bytes}"
        return "" if checksum.hexdigest() == entry.xxh3 else f"{name} does not match its checksum"

    def _names(self) -> list[str]:
        return _sort(self.storage.list(PARENT))

    def _prune(self, newest: Manifest) -> None:
        spared = {checkpoint_name(newest.best_step)} if self._keep_best and newest.best_step is not None else set()
        names = self._names()
        # Training resumed before these checkpoints because they were damaged or unreadable, and will reach their steps
        # again. They must not count towards the number of checkpoints to keep.
        later = [name for name in names if _step(name) > newest.step]
        old = names[: len(names) - len(later)][: -self._keep]
        for name in [*later, *(name for name in old if name not in spared)]:
            self._remove(name)

    def _remove(self, name: str) -> None:
        """Remove a checkpoint in such an order that an interrupted removal never leaves a seemingly complete one."""
        folder = f"{PARENT}/{name}"
        if not self.storage.renames:
            self.storage.delete(f"{folder}/{MANIFEST}")
            self.storage.delete(folder)
        elif self.storage.list(folder):
            doomed = f"{PARENT}/{_TEMPORARY}old-{name}"
            self.storage.delete(doomed)
            self.storage.rename(folder, doomed)
            self.storage.delete(doomed)


def _describe(facts: dict[str, Any], facts_file: FileEntry, metadata: Metadata, written: list[Written]) -> Manifest:
    """Return the manifest of a checkpoint.

    Args:
        facts: The state that is not tensors.
        facts_file: The file that holds it.
        metadata: All tensors.
        written: The files and tensor parts that each rank has written.
    """
    best = facts.get("best")
    return Manifest(
        step=facts["step"],
        best_step=best["step"] if best else None,
        files={FACTS: facts_file} | {name: entry for part in written for name, entry in part.files.items()},
        tensors={
            name: Entry(
                dtype=DTYPE_NAMES[entry.properties.dtype],
                shape=list(entry.size),
                chunks=[part.chunks[name] for part in written if name in part.chunks],
            )
            for name, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        },
    )


def _check_finite(weights: dict[str, Tensor], step: int) -> None:
    for name, value in weights.items():
        # A sum is several times faster than checking each number, and is finite only if all numbers are.
        if value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all():
            raise NonFiniteError(f"weight {name} is not finite at step {step}", NON_FINITE_HINT)


def checkpoint_name(step: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"step-{step:08}"


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))


def _sort(names: list[str] | set[str]) -> list[str]:
    """Return the names of checkpoints among `names`, oldest first."""
    return sorted((name for name in names if _NAME.fullmatch(name)), key=_step)


def _encode(part: Written) -> bytes:
    files = {name: entry.to_wire() for name, entry in part.files.items()}
    return json.dumps([files, {name: chunk.to_wire() for name, chunk in part.chunks.items()}]).encode()


def _decode(reply: bytes) -> Written:
    files, chunks = json.loads(reply)
    return Written(
        {name: FileEntry.model_validate(entry) for name, entry in files.items()},
        {name: Chunk.model_validate(chunk) for name, chunk in chunks.items()},
    )
