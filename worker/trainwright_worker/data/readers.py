"""The readers of all sources and their imports. A new source needs a reader in its own file, and a row here."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from trainwright.api.spec import DatasetSpec, TrainingJobSpec
from trainwright.api.spec.paths import list_paths
from trainwright.api.spec.preparation import MissingTargets
from trainwright.api.spec.source import Modality, Target
from trainwright_worker.data.builtin import read_builtin
from trainwright_worker.data.folders import read_image_folder
from trainwright_worker.data.images import read_cifar10, read_idx
from trainwright_worker.data.labeled import read_labeled, read_text
from trainwright_worker.data.ragged import Scratch
from trainwright_worker.data.saved import read_saved
from trainwright_worker.data.shards import read_shards
from trainwright_worker.data.speech import read_sequences
from trainwright_worker.data.synthetic import generate
from trainwright_worker.data.table import Table
from trainwright_worker.data.tabular import read_table


@dataclass(frozen=True)
class Job:
    """The settings of a job that readers need.

    Attributes:
        root: Folder that relative paths are resolved against.
        scratch: Cache of derived data.
        target: Kind of target.
        seed: Seed of random numbers.
        missing: What to do with samples without a target.
    """

    root: str
    scratch: Scratch
    target: Target
    seed: int
    missing: MissingTargets


@dataclass(frozen=True)
class Reader:
    """The reader of a source.

    Attributes:
        read: Returns the data, given the source's fields and the job.
        libraries: Modules that `read` imports.
    """

    read: Callable[[Any, Job], Table]
    libraries: tuple[str, ...] = ()


def _read_rows(data: Any, job: Job) -> Table:
    return read_table(data, job.root, classify=job.target == Target.CLASS, missing=job.missing)


READERS: Final = {
    "builtin": Reader(lambda data, _: read_builtin(data)),
    "csv": Reader(_read_rows),
    "parquet": Reader(_read_rows, ("pyarrow.parquet",)),
    "idx": Reader(lambda data, job: read_idx(data, job.root)),
    "cifar10": Reader(lambda data, job: read_cifar10(data, job.root)),
    "synthetic": Reader(lambda data, job: generate(data, job.seed)),
    "image_folder": Reader(lambda data, job: read_image_folder(data, job.root), ("PIL.Image",)),
    "labeled_text": Reader(lambda data, job: read_labeled(data, job.root, job.missing)),
    "text": Reader(lambda data, job: read_text(data, job.root)),
    "huggingface": Reader(
        lambda data, job: read_saved(data, job.root, job.target, job.missing), ("datasets", "PIL.Image")
    ),
    "webdataset": Reader(lambda data, job: read_shards(data, job.root, job.scratch), ("PIL.Image",)),
    "labeled_sequences": Reader(lambda data, job: read_sequences(data, job.root, job.scratch, job.missing)),
}


def read_source(spec: TrainingJobSpec, root: str, scratch: Scratch) -> Table:
    """Return the unprocessed data of a job.

    Args:
        spec: The job.
        root: Folder that relative paths are resolved against.
        scratch: Cache of derived data.

    Raises:
        DataError: The data is missing or damaged, or does not match the spec.
    """
    name = spec.dataset.source.field
    job = Job(root, scratch, spec.traits.target, spec.training.seed, spec.dataset.missing_targets)
    return READERS[name].read(getattr(spec.dataset, name), job)


def preload(data: DatasetSpec) -> None:
    """Import the libraries of the reader in the agent, so that forked ranks inherit them and restarts are fast."""
    for name in _libraries(data):
        importlib.import_module(name)


def _libraries(data: DatasetSpec) -> Iterator[str]:
    yield from READERS[data.source.field].libraries
    paths = [path for _, path in list_paths(data)]
    if paths:
        yield "fsspec.implementations.local"
    if any(path.startswith("s3://") for path in paths):
        yield "s3fs"
    if data.source.modality == Modality.TEXTS:
        yield "tokenizers"
    if data.augmentation is not None:
        yield "PIL.Image"
