"""Predictions after training: every rank predicts part of the samples, and rank 0 writes all rows in order.

All ranks take part because a sharded model cannot run on one rank alone.
"""

import csv
import io
import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch

from trainwright.api.spec.outcome import PredictionFormat
from trainwright_worker.data.loader import Request, read_ahead
from trainwright_worker.data.table import Split
from trainwright_worker.distributed.group import Group
from trainwright_worker.distributed.parallel import share_buffers
from trainwright_worker.results.identity import Identities
from trainwright_worker.tasks.task import Row
from trainwright_worker.training.run import Run


def predict(run: Run, split: Split, batch: int, *, known: bool) -> Iterator[Row]:
    """Yield a row per sample, in order, on rank 0 only. All ranks must exhaust this iterator.

    Args:
        run: This rank, with its model in evaluation mode.
        split: The samples, the same on all ranks.
        batch: Samples per rank and forward pass.
        known: Whether the split has real targets.
    """
    share_buffers(run.learner.model, run.group)
    dataset, task = run.data.dataset, run.learner.task
    identities = Identities(split) if run.placement.leads else None
    size, rank = run.group.size, run.group.rank
    shares = [
        torch.arange(begin, min(begin + batch, len(split))) for begin in range(rank * batch, len(split), size * batch)
    ]
    # All ranks must run the same number of forward passes, so a rank without samples left repeats the last one.
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
            rows = [{"index": index} | row for index, row in zip(indices, predicted, strict=True)]
        run.telemetry.pulse.beat()
        for row in _gather(rows, run.group):
            identity = {} if identities is None else identities.describe(row["index"])
            yield {"index": row["index"]} | identity | row


def encode(rows: Iterator[Row], form: PredictionFormat) -> Iterator[bytes]:
    """Yield the lines of a predictions file, as CSV (RFC 4180) or JSON lines."""
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
    """Return a row as CSV columns, with one column for each probability and each of several targets."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == "probabilities":
            flat |= {f"probability_{label}": _text(share) for label, share in value.items()}
        elif isinstance(value, list):
            flat |= {f"{name}_{number}": _text(item) for number, item in enumerate(value)}
        else:
            flat[name] = _text(value)
    return flat


def _text(value: Any) -> Any:
    """Return a float, which the task has rounded, as text without a needless `.0`, and any other value unchanged."""
    return f"{value:.15g}" if isinstance(value, float) else value


def _csv_line(values: Any) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue().encode()


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
