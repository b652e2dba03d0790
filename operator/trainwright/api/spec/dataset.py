"""The data: where it comes from, how it is split, how it is scaled."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trainwright.api.base import Model, Rule, one_of

Path = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^([^.]|\.[^.])*\.?$")]
"""A path without `..` anywhere in it: it cannot leave the folder it starts from."""


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


class Normalize(StrEnum):
    """How features are scaled before training."""

    STANDARD = "standard"
    NONE = "none"


class BuiltinData(Model):
    """A small real dataset that ships with scikit-learn."""

    name: BuiltinName = Field(
        description="digits (1,797 handwritten digits of 8x8 pixels, 10 classes), iris (150 flowers, 3 classes), wine "
        "(178 wines, 3 classes), breast-cancer (569 tumours, 2 classes), diabetes (442 patients, regression)."
    )


class CsvData(Model):
    """A CSV file with a header line."""

    path: Path = Field(
        description="The file; relative paths start at the data mount (/data), or locally at the manifest."
    )
    target: str = Field(min_length=1, max_length=253, description="Column to predict.")
    features: list[Annotated[str, Field(min_length=1, max_length=253)]] | None = Field(
        None, min_length=1, max_length=1024, description="Columns to learn from; by default all but the target."
    )
    delimiter: str = Field(",", min_length=1, max_length=1, description="Character between two values.")


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


class SplitSpec(Model):
    """How much of the data is kept from training. Data with a test file of its own keeps that as its test split."""

    validation: float = Field(0.1, ge=0, lt=1, description="Fraction of the samples held out for evaluation.")
    test: float = Field(0.1, ge=0, lt=1, description="Fraction held out for the final test.")

    rules = (
        Rule(
            field="test",
            message="validation and test together must leave something to train on: keep their sum below 1",
            cel="self.validation + self.test < 1.0",
            holds=lambda self: self.validation + self.test < 1,
        ),
    )


class DatasetSpec(Model):
    """The data to train on: exactly one source, and how to split and scale it."""

    builtin: BuiltinData | None = Field(None, description="A small real dataset that needs no download.")
    csv: CsvData | None = Field(None, description="A CSV file.")
    idx: IdxData | None = Field(None, description="MNIST's idx files.")
    cifar10: Cifar10Data | None = Field(None, description="CIFAR-10's binary files.")
    synthetic: SyntheticData | None = Field(None, description="Generated data.")
    split: SplitSpec = Field(SplitSpec(), description="Fractions held out for validation and test.")
    normalize: Normalize = Field(
        Normalize.STANDARD,
        description="standard: zero mean and unit variance, measured on the training split (per feature; per channel "
        "for images). Regression targets are scaled too: the loss is in their standard deviations, mae and predictions in "
        "their own units. none: values as they are.",
    )

    rules = (one_of("builtin", "csv", "idx", "cifar10", "synthetic", what="dataset"),)
