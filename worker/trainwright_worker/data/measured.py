"""Measurements of the training split. They are part of the saved state, so a resumed run uses the same."""

from dataclasses import dataclass, field
from typing import Any, Self

from trainwright_worker.data.normalization import Normalization
from trainwright_worker.data.pieces import Fingerprint
from trainwright_worker.data.tokens import Tokenizer
from trainwright_worker.errors import UserError


@dataclass(frozen=True)
class Measured:
    """Measurements of the training split, made before training.

    Attributes:
        classes: Name of each class in the order of its index; None if the targets are not classes.
        normalization: Normalization of inputs and of the targets of a regression.
        tokenizer: The tokenizer; None if the inputs are not texts.
        stratified: Whether splits are stratified by class; false in runs of earlier versions.
        fingerprint: Fingerprint of the samples; None in runs of earlier versions.
    """

    classes: tuple[str, ...] | None = None
    normalization: Normalization = field(default_factory=Normalization)
    tokenizer: Tokenizer | None = None
    stratified: bool = False
    fingerprint: Fingerprint | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {
            "classes": None if self.classes is None else list(self.classes),
            "normalization": self.normalization.to_json(),
            "tokenizer": None if self.tokenizer is None else self.tokenizer.to_json(),
            "stratified": self.stratified,
            "fingerprint": None if self.fingerprint is None else self.fingerprint.to_json(),
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Return the measurements that `to_json` wrote."""
        return cls(
            None if raw["classes"] is None else tuple(raw["classes"]),
            Normalization.from_json(raw["normalization"]),
            None if raw["tokenizer"] is None else Tokenizer.from_json(raw["tokenizer"]),
            raw.get("stratified", False),
            Fingerprint.from_json(raw["fingerprint"]) if raw.get("fingerprint") else None,
        )


def compare(mine: Measured, raw: Any, origin: str, field: str) -> str:
    """Check that tokens, classes and scales of this job's data match those that another job's weights were trained on.

    Args:
        mine: Measurements of this job.
        raw: Measurements that the other job has recorded; None if it has none.
        origin: Path of the weights, as in the spec.
        field: Field of the spec with that path.

    Returns:
        A warning about different scales; an empty string if there is none.

    Raises:
        UserError: The tokenizers or classes differ.
    """
    try:
        theirs = Measured.from_json(raw)
    except (KeyError, TypeError):
        return ""  # The weights do not come from a job, so there is nothing to compare.
    if mine.tokenizer is not None and theirs.tokenizer is not None and not mine.tokenizer.agrees(theirs.tokenizer):
        raise UserError(
            f"{field}: {origin} was trained with another tokenizer: its tokens have other ids",
            "set spec.dataset.tokenizer.path to a folder with that job's tokenizer.json, such as its results",
        )
    if mine.classes is not None and theirs.classes is not None and mine.classes != theirs.classes:
        raise UserError(
            f"{field}: {origin} was trained on the classes {', '.join(theirs.classes)[:200]}, but this data has "
            f"{', '.join(mine.classes)[:200]}",
            "use data with the same classes in the same order",
        )
    if mine.normalization.resembles(theirs.normalization):
        return ""
    return f"{field}: {origin} was trained on data with another normalization (spec.dataset.normalize, or other data)"
