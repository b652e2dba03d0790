"""What was measured on the training split: part of the state, so that a run that goes on never measures again."""

from dataclasses import dataclass, field
from typing import Any, Self

from trainwright_worker.data.normalization import Normalization
from trainwright_worker.data.tokens import Tokenizer


@dataclass(frozen=True)
class Measured:
    """What the training split has taught before training begins.

    Attributes:
        classes: Name of each class in the order of its index; None if the targets are no classes.
        normalization: How inputs, and the targets of a regression, are scaled.
        tokenizer: How texts become tokens; None if the inputs are no texts.
    """

    classes: tuple[str, ...] | None = None
    normalization: Normalization = field(default_factory=Normalization)
    tokenizer: Tokenizer | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {
            "classes": None if self.classes is None else list(self.classes),
            "normalization": self.normalization.to_json(),
            "tokenizer": None if self.tokenizer is None else self.tokenizer.to_json(),
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Return what `to_json` wrote."""
        return cls(
            None if raw["classes"] is None else tuple(raw["classes"]),
            Normalization.from_json(raw["normalization"]),
            None if raw["tokenizer"] is None else Tokenizer.from_json(raw["tokenizer"]),
        )
