"""Small real datasets whose files come with scikit-learn.

The files are read here, because importing `sklearn.datasets` takes almost a second of CPU, and loads scipy and pandas too.
"""

from importlib.metadata import distribution
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec.sources import BuiltinData, BuiltinName
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.table import Table

DIGITS_SHAPE: Final = (1, 8, 8)
_FOLDER: Final = "sklearn/datasets/data"
_TABLES: Final = {
    BuiltinName.IRIS: "iris.csv",
    BuiltinName.WINE: "wine_data.csv",
    BuiltinName.BREAST_CANCER: "breast_cancer.csv",
}
"""Files whose first line says how many rows and features there are, and names the classes."""
_OF_NUCLEI: Final = (
    "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points", "symmetry",
    "fractal dimension",
)  # fmt: skip
_FEATURES: Final[dict[BuiltinName, tuple[str, ...]]] = {
    BuiltinName.DIGITS: tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8)),
    BuiltinName.IRIS: ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"),
    BuiltinName.WINE: (
        "alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids",
        "nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280/od315_of_diluted_wines", "proline",
    ),
    BuiltinName.BREAST_CANCER: tuple(
        pattern.format(feature) for pattern in ("mean {}", "{} error", "worst {}") for feature in _OF_NUCLEI
    ),
    BuiltinName.DIABETES: ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"),
}  # fmt: skip
"""The names that scikit-learn gives the features; they are not in its files."""


def read_builtin(data: BuiltinData) -> Table:
    """Return a built-in dataset: digits as images of 1x8x8, the others as rows of features."""
    name = data.name
    if name == BuiltinName.DIABETES:
        # Unscaled, because scaled columns hide the units, and normalization is applied and saved later.
        targets = _read("diabetes_target.csv.gz").to(torch.float32).unsqueeze(1)
        return Table(_samples(name, _read("diabetes_data_raw.csv.gz"), targets), classes=None)
    if name == BuiltinName.DIGITS:
        rows = _read("digits.csv.gz", delimiter=",")
        classes = tuple(str(digit) for digit in range(10))
    else:
        rows = _read(_TABLES[name], delimiter=",", skiprows=1)
        classes = _classes(_TABLES[name])
    return Table(_samples(name, rows[:, :-1], rows[:, -1].to(torch.int64)), classes)


def _samples(name: BuiltinName, inputs: Tensor, targets: Tensor) -> Samples:
    inputs = inputs.to(torch.float32)
    if name == BuiltinName.DIGITS:
        inputs = inputs.reshape(-1, *DIGITS_SHAPE)
    return Samples(inputs, targets, _FEATURES[name], Origins.of_file(str(name), torch.arange(1, len(inputs) + 1)))


def _read(file: str, delimiter: str | None = None, skiprows: int = 0) -> Tensor:
    """Return the numbers of a file (float64), which may be compressed."""
    return torch.from_numpy(np.loadtxt(_path(file), delimiter=delimiter, skiprows=skiprows))


def _classes(file: str) -> tuple[str, ...]:
    with _path(file).open(encoding="utf-8") as lines:
        return tuple(lines.readline().strip().split(",")[2:])


def _path(file: str) -> Path:
    return Path(str(distribution("scikit-learn").locate_file(f"{_FOLDER}/{file}")))
