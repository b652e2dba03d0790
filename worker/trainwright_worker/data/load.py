"""Loads the data of a rank, with the measurements of rank 0 or of a checkpoint."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainwright.api.spec import TrainingJobSpec
from trainwright_worker.data.dataset import Dataset, measure, process, read_table
from trainwright_worker.data.fingerprint import fingerprint
from trainwright_worker.data.measured import Measured
from trainwright_worker.data.pieces import Fingerprint
from trainwright_worker.data.ragged import Scratch
from trainwright_worker.data.splits import Splits, split
from trainwright_worker.data.table import Part
from trainwright_worker.distributed.group import Group
from trainwright_worker.errors import DataError


def load(
    spec: TrainingJobSpec, root: str, group: Group, saved: dict[str, Any] | None = None, scratch: Path | None = None
) -> Dataset:
    """Return a job's data. All ranks must call this.

    Args:
        spec: The job.
        root: Folder that relative paths are resolved against.
        group: All ranks. Rank 0 measures, so that all have exactly the same measurements.
        saved: Measurements of the run that this one resumes, as JSON types.
        scratch: Folder of derived data, which the ranks of this machine share.

    Raises:
        DataError: The data does not match the spec, or has changed since the resumed run started.
        UserError: The spec requests something that the data does not have.
    """
    place = Scratch(scratch)
    before = None if saved is None else Measured.from_json(saved)
    stratify = before is None or before.stratified
    splits, classes, mark = _read(spec, root, place, stratify=stratify, marked=group.rank == 0)
    if before is None:
        mine = None
        if group.rank == 0:
            found = replace(measure(spec, splits, classes, root), stratified=stratify, fingerprint=mark)
            mine = json.dumps(found.to_json()).encode()
        before = Measured.from_json(json.loads(group.broadcast(mine) or b""))
    elif mark is not None and before.fingerprint is not None:
        _check_same(before.fingerprint, mark)
    if before.classes != classes:
        raise DataError(
            f"spec.dataset: the data has the classes {_shown(classes)}, but when the run started it had "
            f"{_shown(before.classes)}",
            "restore the previous data, or start a new job",
        )
    return process(spec, splits, before, place)


def _read(
    spec: TrainingJobSpec, root: str, scratch: Scratch, *, stratify: bool, marked: bool
) -> tuple[Splits[Part], tuple[str, ...] | None, Fingerprint | None]:
    """Return the unprocessed splits, the classes, and the fingerprint of the data if requested."""
    table = read_table(spec, root, scratch)
    mark = fingerprint(table) if marked else None
    return split(table, spec.dataset.split, spec.training.seed, stratify=stratify), table.classes, mark


def _check_same(before: Fingerprint, now: Fingerprint) -> None:
    """Check that the data has not changed, because otherwise held-out samples could become training samples."""
    if changes := now.find_changes(before):
        raise DataError(
            f"spec.dataset: the data has changed since the run started: {changes}",
            "restore the previous data, or start a new job",
        )


def _shown(classes: tuple[str, ...] | None) -> str:
    return ", ".join(classes or ("none",))[:200]
