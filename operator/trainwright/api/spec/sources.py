"""Sources of numbers and of small images: they are read into memory as a whole."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trainwright.api.base import Model, Rule
from trainwright.api.spec.paths import Path

Name = Annotated[str, Field(min_length=1, max_length=253)]
"""Name of a column or a field of the data."""


class BuiltinName(StrEnum):
    """Small real datasets that need no download."""

    DIGITS = "digits"
    IRIS = "iris"
    WINE = "wine"
    BREAST_CANCER = "breast-cancer"
    DIABETES = "diabetes"


class SyntheticKind(StrEnum):
    """What generated data looks like."""

    LINE = "line"
    CLUSTERS = "clusters"


class BuiltinData(Model):
    """A small real dataset that ships with scikit-learn."""

    name: BuiltinName = Field(
        description="digits (1,797 handwritten digits of 8x8 pixels, 10 classes), iris (150 flowers, 3 classes), wine "
        "(178 wines, 3 classes), breast-cancer (569 tumours, 2 classes), diabetes (442 patients, regression)."
    )


class OwnSplits(Model):
    """Separate files for validation and test. They replace the fractions of `split`, and no file may also be trained on."""

    validation_path: Path | None = Field(
        None,
        description="The same for validation; becomes the validation split. Files that are also trained on are refused.",
    )
    test_path: Path | None = Field(
        None,
        description="The same for the final test; becomes the test split. Files that are also trained on are refused.",
    )


class CsvData(OwnSplits):
    """A CSV file with a header line."""

    path: Path = Field(
        description="The file; relative paths start at the data mount (/data), or locally at the manifest. Also a URI "
        "such as s3://bucket/key, with credentials from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …)."
    )
    target: Name = Field(description="Column to predict.")
    features: list[Name] | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="Columns to learn from; by default all but the target and those without a name.",
    )
    delimiter: str = Field(",", min_length=1, max_length=1, description="Character between two values.")


class ParquetData(OwnSplits):
    """Parquet files of one schema."""

    path: Path = Field(
        description="The file, a folder of .parquet files, or a pattern with *. Files and folders whose names begin with . or "
        "_ are left out unless the path names them."
    )
    target: Name = Field(description="Column to predict.")
    features: list[Name] | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="Columns to learn from; by default all but the target and an index of pandas.",
    )


class IdxData(Model):
    """Images and labels in MNIST's idx format, plain or gzip-compressed."""

    images: Path = Field(description="File of training images (idx3-ubyte).")
    labels: Path = Field(description="File of training labels (idx1-ubyte).")
    test_images: Path | None = Field(None, description="File of test images; becomes the test split.")
    test_labels: Path | None = Field(None, description="File of test labels.")

    rules = (
        Rule(
            field="testLabels",
            message="testImages and testLabels belong together: set both or neither",
            cel="has(self.testImages) == has(self.testLabels)",
            holds=lambda self: (self.test_images is None) == (self.test_labels is None),
        ),
    )


class Cifar10Data(Model):
    """CIFAR-10 in its binary format: data_batch_1.bin to data_batch_5.bin and test_batch.bin."""

    path: Path = Field(description="Folder that holds the files; test_batch.bin becomes the test split.")


class SyntheticData(Model):
    """Data generated from the seed: the same on every worker and in every run."""

    kind: SyntheticKind = Field(
        description="line: points on a noisy straight line (regression). clusters: one Gaussian cloud per class "
        "(classification)."
    )
    samples: int = Field(1000, ge=2, le=10_000_000, description="Number of samples.")
    features: int = Field(1, ge=1, le=65_536, description="Number of features per sample.")
    classes: int = Field(10, ge=2, le=65_536, description="Number of classes (clusters only).")
    noise: float = Field(
        0.1, ge=0, le=1_000, description="Standard deviation of the noise, in units of the target or of the features."
    )
