"""The facts about the data that determine a model's inputs and outputs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """The facts about the data that determine a model's inputs and outputs.

    Attributes:
        shape: Shape of one input, without the batch: (features,), (channels, height, width), (length,) for tokens,
            (frames, features).
        outputs: Number of outputs that a model needs: classes, targets, tokens of the vocabulary, or characters and the
            blank of CTC.
        vocabulary: Size of the vocabulary if the inputs are token ids.
        padding: Id of the padding token.
    """

    shape: tuple[int, ...]
    outputs: int
    vocabulary: int | None = None
    padding: int | None = None
