"""Predictions after training: every rank predicts its share, and rank 0 writes all of them in the order of the data.

Sharing costs nothing where one rank would do, and sharded models cannot compute on one rank alone.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from trainwright.api.spec.outcome import PredictionFormat
from trainwright_worker.batch import Batch
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.data.given import Given
from trainwright_worker.data.loader import Request, read_ahead
from trainwright_worker.data.pictures import Pictures
from trainwright_worker.data.table import Split
from trainwright_worker.distributed.group import Group
from trainwright_worker.distributed.parallel import share_buffers
from trainwright_worker.tasks.task import Row
from trainwright_worker.training.run import Run


def predict(run: Run, split: Split, batch: int, *, known: bool) -> Iterator[Row]:
    """Yield a row per sample, in order; on rank 0 only. All ranks must exhaust this.

    Args:
        run: This rank, its model in evaluation mode.
        split: The samples, the same on all ranks.
        batch: Samples per rank and forward pass.
        known: Whether the targets of the split are true.
    """
    share_buffers(run.learner.model, run.group)
    dataset, task = run.data.dataset, run.learner.task
    describe = _describer(dataset, split)
    size, rank = run.group.size, run.group.rank
    shares = [
        torch.arange(begin, min(begin + batch, len(split))) for begin in range(rank * batch, len(split), size * batch)
    ]
    # As many forward passes on every rank: one that has no share left repeats the last sample.
    rounds = -(-len(split) // (size * batch))
    last = torch.tensor([len(split) - 1])
    requests: Iterator[Request] = ((share, None) for share in shares + [last] * (rounds - len(shares)))
    for number, part in enumerate(read_ahead(split, requests, run.group.device)):
        with torch.inference_mode():
            outputs = run.learner.engine.forward(part).cpu()
        rows: list[Row] = []
        if number < len(shares):
            indices, local = shares[number].tolist(), part.to(torch.device("cpu"))
            predicted = task.describe(local, outputs, dataset, known=known)
            described = zip(indices, describe(indices, local), predicted, strict=True)
            rows = [{"index": index} | name | row for index, name, row in described]
        run.telemetry.pulse.beat()
        yield from _gather(rows, run.group)


def encode(rows: Iterator[Row], form: PredictionFormat) -> Iterator[bytes]:
    """Yield the lines of a file of predictions, as CSV (RFC 4180) or JSON lines."""
    if form == PredictionFormat.JSONL:
        yield from (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
        return
    first = next(rows, None)
    if first is None:
        return
    yield _csv_line(_flat(first))
    for row in chain((first,), rows):
        yield _csv_line(_flat(row).values())


def _flat(row: Row) -> dict[str, Any]:
    """Return a row in columns: a number with the digits it has, probabilities and several targets in one each."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == "probabilities":
            flat |= {f"probability_{label}": _digits(share) for label, share in value.items()}
        elif isinstance(value, list):
            flat |= {f"{name}_{number}": _digits(item) for number, item in enumerate(value)}
        else:
            flat[name] = _digits(value)
    return flat


def _digits(value: Any) -> Any:
    """Return a number as CSV has it; anything else, of which None becomes an empty field, as it is."""
    return f"{value:.7g}" if isinstance(value, float) else value


def _csv_line(values: Any) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue().encode()


def _describer(dataset: Dataset, split: Split) -> Callable[[list[int], Batch], list[dict[str, str]]]:
    """Return what says of samples, given their indices and their batch, which they are: a text, or the name of a file."""
    if isinstance(split, Given):
        texts = split.texts
        return lambda indices, _: [{} if texts is None else {"text": texts[index]} for index in indices]
    if isinstance(split, Pictures):
        return lambda indices, _: [{"file": split.images.name(row)} for row in split.rows[indices].tolist()]
    tokenizer = dataset.tokenizer
    if tokenizer is not None:
        return lambda indices, batch: [
            {"text": tokenizer.decode(_real_ids(batch, row).tolist())} for row in range(len(indices))
        ]
    return lambda indices, _: [{} for _ in indices]


def _real_ids(batch: Batch, row: int) -> Tensor:
    return batch.input[row] if batch.mask is None else batch.input[row][batch.mask[row]]


def _gather(rows: list[Row], group: Group) -> Iterator[Row]:
    """Yield the rows of all ranks in the order of the ranks; on rank 0 only."""
    if group.size == 1:
        yield from rows
        return
    mine = torch.frombuffer(bytearray(json.dumps(rows).encode()), dtype=torch.uint8)
    sizes = [0.0] * group.size
    sizes[group.rank] = float(len(mine))
    lengths = [int(length) for length in group.sum(sizes)]
    padded = torch.zeros(max(lengths), dtype=torch.uint8)
    padded[: len(mine)] = mine
    for part, length in zip(group.gather(padded), lengths, strict=False):
        yield from json.loads(part[:length].numpy().tobytes())
