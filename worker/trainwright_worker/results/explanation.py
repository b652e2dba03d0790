"""What an explanation of one prediction says, before it is written or drawn."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Explanation:
    """Why the model answers as it does to one sample.

    Attributes:
        facts: What is said of the sample and its prediction, as JSON types.
        answer: The class or target that is explained, in words.
        parts: Name of each part with its value; empty for images.
        image: float32 [channels, height, width] from 0 to 1; None for anything else.
        attributions: By method, what each part contributes, see `attribute`.
    """

    facts: dict[str, Any]
    answer: str
    parts: list[str]
    image: Tensor | None
    attributions: dict[str, Tensor]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the image as JSON types."""
        found = {method: values.tolist() for method, values in self.attributions.items()}
        return self.facts | {"explained": self.answer, "parts": self.parts, "attributions": found}
