"""Preparation of the data: splitting, scaling, augmentation and tokenization."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trainwright.api.base import Model, Rule, at_most_one_of
from trainwright.api.spec.paths import Path

Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(gt=0, le=100)]


class Normalize(StrEnum):
    """How features are scaled before training."""

    STANDARD = "standard"
    IMAGENET = "imagenet"
    UNIT = "unit"
    NONE = "none"


class MissingTargets(StrEnum):
    """How samples without a target are treated."""

    REFUSE = "refuse"
    DROP = "drop"
    CLASS = "class"


class TokenizerName(StrEnum):
    """How a text is cut into tokens, where the vocabulary is learnt from the training split."""

    WORD = "word"
    CHARACTER = "character"
    BYTE = "byte"
    BPE = "bpe"


class SplitSpec(Model):
    """Fractions of the data held out from training. Splits that the data itself defines are kept."""

    validation: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Fraction of the samples held out for evaluation. Samples are drawn at random with training.seed, "
        "stratified by class. A class with enough samples is in every split, if the splits are large enough.",
    )
    test: float = Field(0.1, ge=0, lt=1, description="Fraction held out for the final test.")

    rules = (
        Rule(
            field="test",
            message="validation and test together must leave something to train on: keep their sum below 1",
            cel="double(self.validation) + double(self.test) < 1.0",
            holds=lambda self: self.validation + self.test < 1,
        ),
    )


class RandomCropSpec(Model):
    """A window of the model's size, cut from a place drawn at random."""

    padding: int = Field(4, ge=0, le=1_024, description="Zeros added on every side first, in pixels.")


class ResizedCropSpec(Model):
    """A random part of the image, scaled to the model's size. Usual for ImageNet."""

    scale: list[Share] = Field(
        [0.08, 1.0], min_length=2, max_length=2, description="Smallest and largest share of the area."
    )
    ratio: list[Ratio] = Field(
        [0.75, 1.3333333333333333], min_length=2, max_length=2, description="Smallest and largest width by height."
    )

    rules = (
        Rule(
            field="scale",
            message="the first value must not be larger than the second",
            cel="self.scale[0] <= self.scale[1]",
            holds=lambda self: self.scale[0] <= self.scale[1],
        ),
        Rule(
            field="ratio",
            message="the first value must not be larger than the second",
            cel="self.ratio[0] <= self.ratio[1]",
            holds=lambda self: self.ratio[0] <= self.ratio[1],
        ),
    )


class ColorJitterSpec(Model):
    """Random changes of colour; each factor is drawn from 1 - value to 1 + value."""

    brightness: float = Field(0, ge=0, le=1, description="Range of the factor of the brightness.")
    contrast: float = Field(0, ge=0, le=1, description="Range of the factor of the contrast.")
    saturation: float = Field(0, ge=0, le=1, description="Range of the factor of the saturation.")


class AugmentationSpec(Model):
    """Random changes to training images, drawn anew in every epoch from the seed. Evaluation sees images unchanged."""

    random_crop: RandomCropSpec | None = Field(None, description="Crop a random window. Usual for CIFAR.")
    resized_crop: ResizedCropSpec | None = Field(None, description="Cut a random part and scale it.")
    horizontal_flip: float = Field(0, ge=0, le=1, description="Probability of swapping left and right.")
    color_jitter: ColorJitterSpec | None = Field(None, description="Change colours at random.")

    rules = (at_most_one_of("random_crop", "resized_crop", what="augmentation"),)


class TokenizerSpec(Model):
    """How texts become token ids: learnt from the training split, or read from a folder."""

    name: TokenizerName | None = Field(
        None,
        description="word (words and punctuation), character, byte, or bpe (byte-level byte-pair encoding, as in "
        "GPT-2). By default word for classification, and bpe for language modelling.",
    )
    path: Path | None = Field(
        None,
        description="Folder with the tokenizer.json of a pretrained tokenizer in Hugging Face's format. The default for a "
        "model with pretrained weights in such a folder.",
    )
    vocabulary_size: int = Field(
        10_000, ge=2, le=1_000_000, description="Maximum size of a learned vocabulary, including special tokens."
    )
    max_length: int = Field(
        256,
        ge=1,
        le=1_048_576,
        description="Tokens per sample: longer texts are truncated; blocks of a language model have this length.",
    )
    lowercase: bool = Field(False, description="Turn text into lower case first (learnt tokenizers only).")

    rules = (
        at_most_one_of("name", "path", what="tokenizer"),
        Rule(
            field="lowercase",
            message="a tokenizer read from a folder has its own normalization: remove lowercase, or path",
            cel="!self.lowercase || !has(self.path)",
            holds=lambda self: not self.lowercase or self.path is None,
        ),
    )
