"""Which reader reads which source, and what it will have to import."""

import importlib
from collections.abc import Iterator

from trainwright.api.spec import DatasetSpec, TrainingJobSpec
from trainwright.api.spec.job import Task
from trainwright.api.spec.paths import is_uri, list_paths
from trainwright_worker.data.builtin import read_builtin
from trainwright_worker.data.images import read_cifar10, read_idx
from trainwright_worker.data.labeled import read_labeled, read_text
from trainwright_worker.data.ragged import Scratch
from trainwright_worker.data.synthetic import generate
from trainwright_worker.data.table import Table
from trainwright_worker.data.tabular import read_table
from trainwright_worker.errors import UserError


def read_source(spec: TrainingJobSpec, root: str, scratch: Scratch) -> Table:
    """Return the data of a job as its source has it.

    Args:
        spec: The job.
        root: Folder at which relative paths start.
        scratch: Where to keep what is derived from the data.

    Raises:
        DataError: The data is missing, damaged or not what the spec says.
    """
    data = spec.dataset
    if data.builtin is not None:
        return read_builtin(data.builtin)
    if (table := data.csv or data.parquet) is not None:
        return read_table(table, root, classify=spec.task == Task.CLASSIFICATION)
    if data.idx is not None:
        return read_idx(data.idx, root)
    if data.cifar10 is not None:
        return read_cifar10(data.cifar10, root)
    if data.synthetic is not None:
        return generate(data.synthetic, spec.training.seed)
    if data.labeled_text is not None:
        return read_labeled(data.labeled_text, root)
    if data.text is not None:
        return read_text(data.text, root)
    raise UserError("spec.dataset: names no source")


def preload(data: DatasetSpec) -> None:
    """Import what reading will need, in the agent, so that its processes inherit it and restarts cost no import."""
    for name in _libraries(data):
        importlib.import_module(name)


def _libraries(data: DatasetSpec) -> Iterator[str]:
    if data.builtin is not None:
        yield "sklearn.datasets"
    if any(is_uri(path) for _, path in list_paths(data)):
        yield "s3fs"
    if data.has_texts:
        yield "tokenizers"
    if data.parquet is not None:
        yield "pyarrow.parquet"
    if data.huggingface is not None:
        yield "datasets"
    if data.has_images:
        yield "PIL.Image"
