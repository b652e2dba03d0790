"""Which reader reads which source, and what it has to import. A new source is a reader in a file of its own, and a row here."""

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
    """What readers know of a job.

    Attributes:
        root: Folder at which relative paths start.
        scratch: Where to keep what is derived from the data.
        target: What is to be learnt from the data.
        seed: Seed of what is drawn at random.
        missing: What becomes of samples without a target.
    """

    root: str
    scratch: Scratch
    target: Target
    seed: int
    missing: MissingTargets


@dataclass(frozen=True)
class Reader:
    """How a source is read.

    Attributes:
        read: Returns the data, given the source's fields and the job.
        libraries: What that imports when it is called.
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
    """Return the data of a job as its source has it.

    Args:
        spec: The job.
        root: Folder at which relative paths start.
        scratch: Where to keep what is derived from the data.

    Raises:
        DataError: The data is missing, damaged or not what the spec says.
    """
    name = spec.dataset.source.field
    job = Job(root, scratch, spec.traits.target, spec.training.seed, spec.dataset.missing_targets)
    return READERS[name].read(getattr(spec.dataset, name), job)


def preload(data: DatasetSpec) -> None:
    """Import what reading will need, in the agent, so that its processes inherit it and restarts cost no import."""
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
