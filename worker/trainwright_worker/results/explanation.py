"""The explanation of one prediction as data, before it is written or drawn."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Explanation:
    """The explanation of the model's prediction for one sample.

    Attributes:
        facts: Description of the sample and its prediction, as JSON types.
        answer: Name of the explained class or target.
        parts: Name of each part, with its value; empty for images.
        image: float32 [channels, height, width] from 0 to 1; None for anything else.
        attributions: Contribution of each part by method, see `attribute`.
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
