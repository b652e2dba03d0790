"""The fingerprint of a dataset, and the comparison with an earlier one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

_SHOWN: Final = 5
"""Maximum number of changes that a message lists."""
SPLIT: Final = "split"
"""Name of the part that is split, unless there are separate files for validation and test."""


@dataclass(frozen=True)
class Piece:
    """A file or a folder of the data.

    Attributes:
        name: Its path relative to the common folder of all pieces.
        samples: Number of samples; None if it is not known per piece.
        digest: Hash of the samples in their order.
    """

    name: str
    samples: int | None
    digest: str


@dataclass(frozen=True)
class Fingerprint:
    """The pieces of each part of the data: the part to split, and separate files for validation and test."""

    parts: dict[str, tuple[Piece, ...]]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {
            part: [[piece.name, piece.samples, piece.digest] for piece in pieces] for part, pieces in self.parts.items()
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Return the fingerprint that `to_json` wrote."""
        return cls({part: tuple(Piece(*piece) for piece in pieces) for part, pieces in raw.items()})

    def find_changes(self, before: "Fingerprint") -> str:
        """Return the changes since `before`, for the end of a message; an empty string if there are none."""
        changes = [
            f"{change}{'' if part == SPLIT else f' ({part} files)'}"
            for part in dict.fromkeys((*before.parts, *self.parts))
            for change in _changes(before.parts.get(part, ()), self.parts.get(part, ()))
        ]
        return "; ".join(changes[:_SHOWN]) + (f"; and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else "")


def _changes(before: Sequence[Piece], now: Sequence[Piece]) -> Iterator[str]:
    old, new = ({piece.name: piece for piece in pieces} for pieces in (before, now))
    for name in old.keys() - new.keys():
        yield f"{name} is missing{_counted(old[name])}"
    for name, piece in new.items():
        if name not in old:
            yield f"{name} is new{_counted(piece)}"
        elif piece.samples != old[name].samples:
            yield f"{name} has {piece.samples:,} samples instead of {old[name].samples:,}"
        elif piece != old[name]:
            yield f"{name} has other samples, or another order of samples"
    if before != now and old == new:
        yield "the files are in another order"


def _counted(piece: Piece) -> str:
    return "" if piece.samples is None else f", with {piece.samples:,} samples"
