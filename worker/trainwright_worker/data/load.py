"""The data of a rank, from the spec to processed splits: what was measured comes from rank 0, or from a checkpoint."""

import json
from pathlib import Path
from typing import Any

from trainwright.api.spec import TrainingJobSpec
from trainwright_worker.data.dataset import Dataset, measure, process, read
from trainwright_worker.data.measured import Measured
from trainwright_worker.data.ragged import Scratch
from trainwright_worker.distributed.group import Group
from trainwright_worker.errors import DataError


def load(
    spec: TrainingJobSpec, root: str, group: Group, saved: dict[str, Any] | None = None, scratch: Path | None = None
) -> Dataset:
    """Return a job's data. All ranks must call this.

    Args:
        spec: The job.
        root: Folder at which relative paths start.
        group: All ranks: rank 0 measures, so that all have the same to the last bit.
        saved: What the run that this one continues had measured.
        scratch: Folder for what is derived from the data, which the ranks of this machine share.

    Raises:
        DataError: The data is not what the spec says, or has other classes than it had.
        UserError: The spec asks for what the data does not have.
    """
    place = Scratch(scratch)
    splits, classes = read(spec, root, place)
    if saved is None:
        mine = json.dumps(measure(spec, splits, classes, root).to_json()).encode() if group.rank == 0 else None
        saved = json.loads(group.broadcast(mine) or b"")
    measured = Measured.from_json(saved)
    if measured.classes != classes:
        raise DataError(
            f"spec.dataset: the data has the classes {_shown(classes)}, but the run to be continued had "
            f"{_shown(measured.classes)}",
            "put the data back as it was, or start a new job",
        )
    return process(spec, splits, measured, place)


def _shown(classes: tuple[str, ...] | None) -> str:
    return ", ".join(classes or ("none",))[:200]
