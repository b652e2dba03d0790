"""Sources of images, texts and sequences. Samples are read on demand, so the data may be larger than memory."""

from typing import Annotated, ClassVar

from pydantic import Field

from trainwright.api.base import Model, Rule, one_of
from trainwright.api.spec.paths import Path, Shards
from trainwright.api.spec.sources import Name, OwnSplits

Extension = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$")]


class Pictures(Model):
    """How images are brought to the model's input size."""

    size: int = Field(224, ge=1, le=8_192, description="Height and width of the model's input, in pixels.")
    resize: int | None = Field(
        None,
        ge=1,
        le=8_192,
        description="Length in pixels to which the shorter side is scaled before the centre is cropped, wherever no random crop "
        "applies, as in evaluations. By default size; 256 is usual for ImageNet with a size of 224.",
    )
    grayscale: bool = Field(
        False,
        description="Read images in shades of gray: one channel instead of three. In both cases images are rotated "
        "upright according to their EXIF data, and transparent pixels become white. Images of 16 bits keep their full "
        "precision, on the same scale as images of 8 bits: black is 0, white is 255.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="resize",
            message="must be at least size, because a crop of that size is cut from the centre",
            cel="!has(self.resize) || self.resize >= self.size",
            holds=lambda self: self.resize is None or self.resize >= self.size,
        ),
    )


class ImageFolderData(Pictures):
    """Images in one folder per class, the layout of ImageNet."""

    path: Path = Field(
        description="A folder with train/CLASS/*.jpg, and optionally test and val in the same layout; or with CLASS/*.jpg directly. "
        "The folders of splits may also be called training, testing, validation, valid or dev, in upper or lower case. Classes "
        "are the names of the folders, sorted as text. Hidden files are ignored. A folder called train beside folders "
        "that are not splits is refused: put all classes into a folder called train."
    )


class LabeledTextData(OwnSplits):
    """Texts, each with a label."""

    path: Path = Field(
        description="A .jsonl, .csv or .parquet file (also a pattern with *), or a folder in the layout of the IMDB reviews: "
        "train/LABEL/*.txt, with test/LABEL/*.txt and val/LABEL/*.txt becoming the test and validation splits (named as in "
        "imageFolder); LABEL is any name except unsup. Hidden files are ignored."
    )
    text_field: Name = Field("text", description="Field or column that holds the text.")
    label_field: Name = Field("label", description="Field or column that holds the label.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="Character between two values (.csv only).")


class TextData(OwnSplits):
    """Text for a language model, cut into blocks of tokenizer.maxLength tokens."""

    path: Path = Field(
        description="A file of plain text, a .jsonl file with one text per line, a folder of such files (.txt, .text, .md, "
        ".raw, .tokens, .jsonl), or a pattern with *; hidden files are ignored. split holds out the end of plain text, "
        "or random lines of .jsonl."
    )
    text_field: Name = Field("text", description="Field that holds the text (.jsonl only); blank texts are left out.")


class HuggingFaceData(Pictures):
    """A dataset that Hugging Face's `datasets` has saved on disk; its own train, validation and test splits are kept."""

    path: Path = Field(description="The folder of a Dataset or a DatasetDict that save_to_disk wrote.")
    text: Name | None = Field(None, description="Column of texts. Blank texts are left out for a language model.")
    image: Name | None = Field(None, description="Column of images.")
    features: list[Name] | None = Field(
        None, min_length=1, max_length=1024, description="Columns of numbers, or of lists of numbers."
    )
    label: Name = Field(
        "label",
        description="Column to predict: classes, or numbers in a regression. A language model needs none.",
    )

    rules = (*Pictures.rules, one_of("text", "image", "features", what="huggingface"))


class WebDatasetData(Pictures):
    """Images in tar files (shards), each with a file that holds its class."""

    path: Shards = Field(
        description="The shards: one file, a pattern with *, or ranges as in train-{000..146}.tar. Files whose "
        "names are equal up to the first dot form a sample, such as n01.jpg and n01.cls: one image and one label each."
    )
    validation_path: Shards | None = Field(None, description="Separate shards for validation.")
    test_path: Shards | None = Field(None, description="Separate shards for the final test.")
    image: list[Extension] = Field(
        ["jpg", "jpeg", "png", "webp"], min_length=1, max_length=16, description="Extensions of the images."
    )
    label: Extension = Field("cls", description="Extension of the files that hold the name or number of the class.")


class LabeledSequencesData(OwnSplits):
    """Sequences of frames, such as the spectrum of speech, each with its transcript."""

    path: Path = Field(description="A .jsonl file with one sequence per line, or a pattern with *.")
    frames_field: Name = Field("frames", description="Field with the frames: a list of equally long lists of numbers.")
    text_field: Name = Field("text", description="Field with the transcript. Its characters are the classes.")
