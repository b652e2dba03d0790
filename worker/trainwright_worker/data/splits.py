"""Which samples train, which validate, which test: drawn from the seed, so every rank and every restart agrees."""

from dataclasses import dataclass

import torch

from trainwright.api.spec.dataset import SplitSpec
from trainwright_worker.data.table import Samples, Table
from trainwright_worker.errors import DataError


@dataclass(frozen=True)
class Splits:
    """The three parts of a dataset; None where the spec asks for none."""

    train: Samples
    validation: Samples | None
    test: Samples | None


def split(table: Table, spec: SplitSpec, seed: int) -> Splits:
    """Return the parts of a dataset, shuffled by `seed`. A fraction above 0 gets at least one sample.

    Raises:
        DataError: Nothing would be left to train on.
    """
    total = len(table.samples)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    tested = 0 if table.test is not None else _count(spec.test, total)
    validated = _count(spec.validation, total)
    if tested + validated >= total:
        raise DataError(
            f"spec.dataset.split: of {total} samples {validated} go to validation and {tested} to test, "
            "which leaves none to train on"
        )
    test = table.test
    if tested:
        test = table.samples.select(order[:tested])
    validation = table.samples.select(order[tested : tested + validated]) if validated else None
    return Splits(table.samples.select(order[tested + validated :]), validation, test)


def _count(fraction: float, total: int) -> int:
    return max(1, round(fraction * total)) if fraction else 0
