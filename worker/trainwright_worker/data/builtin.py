"""Small real datasets of scikit-learn. The import takes seconds, so it happens only in jobs that use them."""

import importlib
from typing import Any

import torch

from trainwright.api.spec.sources import BuiltinData, BuiltinName
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.table import Table

DIGITS_SHAPE = (1, 8, 8)


def read_builtin(data: BuiltinData) -> Table:
    """Return a built-in dataset: digits as images of 1x8x8, the others as rows of features."""
    loaded = _load(data.name)
    inputs = torch.from_numpy(loaded.data).to(torch.float32)
    features = tuple(str(name) for name in loaded.feature_names)
    origins = Origins.of_file(str(data.name), torch.arange(1, len(inputs) + 1))
    if data.name == BuiltinName.DIABETES:
        targets = torch.from_numpy(loaded.target).to(torch.float32).unsqueeze(1)
        return Table(Samples(inputs, targets, features, origins), classes=None)
    if data.name == BuiltinName.DIGITS:
        inputs = inputs.reshape(-1, *DIGITS_SHAPE)
    classes = tuple(str(name) for name in loaded.target_names)
    return Table(Samples(inputs, torch.from_numpy(loaded.target).to(torch.int64), features, origins), classes)


def _load(name: BuiltinName) -> Any:
    datasets = importlib.import_module("sklearn.datasets")
    match name:
        case BuiltinName.DIGITS:
            return datasets.load_digits()
        case BuiltinName.IRIS:
            return datasets.load_iris()
        case BuiltinName.WINE:
            return datasets.load_wine()
        case BuiltinName.BREAST_CANCER:
            return datasets.load_breast_cancer()
        case BuiltinName.DIABETES:
            # Unscaled, because scaled columns hide the units, and normalization is applied and saved later.
            return datasets.load_diabetes(scaled=False)
