"""What a model must know of the data it is trained on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What a model must know of the data.

    Attributes:
        shape: Shape of one input, without the batch: (features,), (channels, height, width), (length,) for tokens,
            (frames, features).
        outputs: Number of outputs that a model needs: classes, targets, words of the vocabulary, or characters and CTC's
            blank.
        vocabulary: Size of the vocabulary if the inputs are token ids.
        padding: Id of the padding token.
    """

    shape: tuple[int, ...]
    outputs: int
    vocabulary: int | None = None
    padding: int | None = None
