"""What was measured on the training split: part of the state, so that a run that goes on never measures again."""

from dataclasses import dataclass, field
from typing import Any, Self

from trainwright_worker.data.normalization import Normalization
from trainwright_worker.data.pieces import Fingerprint
from trainwright_worker.data.tokens import Tokenizer
from trainwright_worker.errors import UserError


@dataclass(frozen=True)
class Measured:
    """What the training split has taught before training begins.

    Attributes:
        classes: Name of each class in the order of its index; None if the targets are no classes.
        normalization: How inputs, and the targets of a regression, are scaled.
        tokenizer: How texts become tokens; None if the inputs are no texts.
        stratified: Whether each split has its share of each class; runs of earlier versions did not see to it.
        fingerprint: What the samples were; None in a run of an earlier version.
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
        """Return what `to_json` wrote."""
        return cls(
            None if raw["classes"] is None else tuple(raw["classes"]),
            Normalization.from_json(raw["normalization"]),
            None if raw["tokenizer"] is None else Tokenizer.from_json(raw["tokenizer"]),
            raw.get("stratified", False),
            Fingerprint.from_json(raw["fingerprint"]) if raw.get("fingerprint") else None,
        )


def compare(mine: Measured, raw: Any, origin: str, field: str) -> str:
    """See that weights of another job mean here what they meant there: shapes alone do not tell.

    Args:
        mine: What this job has measured.
        raw: What the other job says that it had measured; None if it says nothing.
        origin: Where the weights are, as the spec says it.
        field: Field of the spec that says it.

    Returns:
        What a person should know although it may be meant, in a sentence; nothing if there is nothing.

    Raises:
        UserError: The same tokens or outputs stood for something else there.
    """
    try:
        theirs = Measured.from_json(raw)
    except (KeyError, TypeError):
        return ""  # Weights from elsewhere; nobody knows.
    if mine.tokenizer is not None and theirs.tokenizer is not None and not mine.tokenizer.agrees(theirs.tokenizer):
        raise UserError(
            f"{field}: {origin} was trained with another tokenizer: its tokens have other numbers",
            "set spec.dataset.tokenizer.path to a folder with that job's tokenizer.json, as its results are",
        )
    if mine.classes is not None and theirs.classes is not None and mine.classes != theirs.classes:
        raise UserError(
            f"{field}: {origin} was taught the classes {', '.join(theirs.classes)[:200]}, but this data has "
            f"{', '.join(mine.classes)[:200]}",
            "use data with the same classes in the same order",
        )
    if mine.normalization.resembles(theirs.normalization):
        return ""
    return f"{field}: {origin} was trained on data that was scaled otherwise (spec.dataset.normalize, or other data)"
