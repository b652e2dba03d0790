"""The dataset: its source, its splits and its preparation."""

from pydantic import Field

from trainwright.api.base import Model, Rule, one_of
from trainwright.api.spec.corpora import (
    HuggingFaceData,
    ImageFolderData,
    LabeledSequencesData,
    LabeledTextData,
    TextData,
    WebDatasetData,
)
from trainwright.api.spec.preparation import AugmentationSpec, MissingTargets, Normalize, SplitSpec, TokenizerSpec
from trainwright.api.spec.source import (
    SOURCE_FIELDS,
    Modality,
    Source,
    find_source,
    modality_in_cel,
    sources_where,
)
from trainwright.api.spec.sources import (
    BuiltinData,
    BuiltinName,
    Cifar10Data,
    CsvData,
    IdxData,
    ParquetData,
    SyntheticData,
    SyntheticKind,
)

_IMAGES = sources_where(lambda source: source.modality == Modality.IMAGES)
_TEXTS = sources_where(lambda source: source.modality == Modality.TEXTS)

__all__ = ["BuiltinName", "DatasetSpec", "MissingTargets", "Normalize", "SplitSpec", "SyntheticKind"]


class DatasetSpec(Model):
    """The data to train on: exactly one source, and how it is prepared."""

    builtin: BuiltinData | None = Field(None, description="A small real dataset that needs no download.")
    csv: CsvData | None = Field(None, description="A CSV file.")
    parquet: ParquetData | None = Field(None, description="Parquet files.")
    idx: IdxData | None = Field(None, description="MNIST's idx files.")
    cifar10: Cifar10Data | None = Field(None, description="CIFAR-10's binary files.")
    synthetic: SyntheticData | None = Field(None, description="Generated data.")
    image_folder: ImageFolderData | None = Field(None, description="Images in one folder per class.")
    labeled_text: LabeledTextData | None = Field(None, description="Texts with labels.")
    text: TextData | None = Field(None, description="Text for a language model.")
    huggingface: HuggingFaceData | None = Field(None, description="A dataset saved by Hugging Face's library.")
    webdataset: WebDatasetData | None = Field(None, description="Images in tar files.")
    labeled_sequences: LabeledSequencesData | None = Field(None, description="Sequences of frames with transcripts.")
    split: SplitSpec = Field(SplitSpec(), description="Fractions held out for validation and test.")
    missing_targets: MissingTargets = Field(
        MissingTargets.REFUSE,
        description="How samples without a target are treated: null, NaN, blank, or a text such as NA, N/A, NaN, null or None that "
        "pandas reads as missing. refuse: the job fails and lists them. drop: they are left out of every split, and their "
        "number is logged. class: like refuse, but such a text is taken as the name of a class.",
    )
    normalize: Normalize = Field(
        Normalize.STANDARD,
        description="standard: zero mean and unit variance, measured on the training split (per feature; per channel "
        "for images, on a sample of 2,048 where images are files; per feature for frames). imagenet: ImageNet's mean and "
        "deviation, as pretrained models expect. unit: from 0 to 1. none: values as they are. Regression targets are "
        "scaled too, unless it is none: the loss is in their standard deviations, mae and predictions in their own units.",
    )
    augmentation: AugmentationSpec | None = Field(None, description="Random changes to training images.")
    tokenizer: TokenizerSpec | None = Field(None, description="How texts become token ids.")

    rules = (
        one_of(*SOURCE_FIELDS, what="dataset"),
        Rule(
            field="augmentation",
            message=f"augmentation changes images: remove it, or choose {_IMAGES}",
            cel=f"!has(self.augmentation) || {modality_in_cel('self', Modality.IMAGES)}",
            holds=lambda self: self.augmentation is None or self.source.modality == Modality.IMAGES,
        ),
        Rule(
            field="normalize",
            message="imagenet describes images: choose standard, or none",
            cel=f"self.normalize != 'imagenet' || {modality_in_cel('self', Modality.IMAGES)}",
            holds=lambda self: self.normalize != Normalize.IMAGENET or self.source.modality == Modality.IMAGES,
        ),
        Rule(
            field="tokenizer",
            message=f"a tokenizer needs texts: remove it, or choose {_TEXTS}",
            cel=f"!has(self.tokenizer) || {modality_in_cel('self', Modality.TEXTS)}",
            holds=lambda self: self.tokenizer is None or self.source.modality == Modality.TEXTS,
        ),
    )

    @property
    def source(self) -> Source:
        """The kind of samples and targets that the source offers."""
        return find_source(self)
