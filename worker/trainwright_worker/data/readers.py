"""Which reader reads which source, and what it will have to import."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

from trainwright.api.spec import DatasetSpec, TrainingJobSpec
from trainwright.api.spec.job import Task
from trainwright.api.spec.paths import list_paths
from trainwright.api.spec.sources import CsvData, ParquetData
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


def read_source(spec: TrainingJobSpec, root: str, scratch: Scratch) -> Table:
    """Return the data of a job as its source has it.

    Args:
        spec: The job.
        root: Folder at which relative paths start.
        scratch: Where to keep what is derived from the data.

    Raises:
        DataError: The data is missing, damaged or not what the spec says.
    """
    missing = spec.dataset.missing_targets

    def read_rows(data: CsvData | ParquetData) -> Table:
        classify = spec.task == Task.CLASSIFICATION
        return read_table(data, root, classify=classify, missing=missing)

    readers: dict[str, Callable[[Any], Table]] = {
        "builtin": read_builtin,
        "csv": read_rows,
        "parquet": read_rows,
        "idx": lambda data: read_idx(data, root),
        "cifar10": lambda data: read_cifar10(data, root),
        "synthetic": lambda data: generate(data, spec.training.seed),
        "image_folder": lambda data: read_image_folder(data, root),
        "labeled_text": lambda data: read_labeled(data, root, missing),
        "text": lambda data: read_text(data, root),
        "huggingface": lambda data: read_saved(data, root, spec.task, missing),
        "webdataset": lambda data: read_shards(data, root, scratch),
        "labeled_sequences": lambda data: read_sequences(data, root, scratch, missing),
    }
    sources = ((reader, getattr(spec.dataset, name)) for name, reader in readers.items())
    return next(reader(data) for reader, data in sources if data is not None)


def preload(data: DatasetSpec) -> None:
    """Import what reading will need, in the agent, so that its processes inherit it and restarts cost no import."""
    for name in _libraries(data):
        importlib.import_module(name)


def _libraries(data: DatasetSpec) -> Iterator[str]:
    if data.builtin is not None:
        yield "sklearn.datasets"
    paths = [path for _, path in list_paths(data)]
    if paths:
        yield "fsspec.implementations.local"
    if any(path.startswith("s3://") for path in paths):
        yield "s3fs"
    if data.has_texts:
        yield "tokenizers"
    if data.parquet is not None:
        yield "pyarrow.parquet"
    if data.huggingface is not None:
        yield "datasets"
    pictures = data.image_folder or data.webdataset or (data.huggingface and data.huggingface.image)
    if pictures or data.augmentation is not None:
        yield "PIL.Image"
