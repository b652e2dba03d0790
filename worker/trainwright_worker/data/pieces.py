"""A fingerprint of the data: its pieces, and what of them has changed since another one was taken."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

_SHOWN: Final = 5
"""How many changes a message lists."""
SPLIT: Final = "split"
"""The part of which samples are held out, unless validation and test have files of their own."""


@dataclass(frozen=True)
class Piece:
    """A file or a folder of the data.

    Attributes:
        name: Its path from the folder that all pieces have in common.
        samples: How many samples it holds; None if that is not known by piece.
        digest: Hash of what they are, in their order.
    """

    name: str
    samples: int | None
    digest: str


@dataclass(frozen=True)
class Fingerprint:
    """The pieces of each part of the data: of the samples to split, and of files of their own for validation and test."""

    parts: dict[str, tuple[Piece, ...]]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {
            part: [[piece.name, piece.samples, piece.digest] for piece in pieces] for part, pieces in self.parts.items()
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Return what `to_json` wrote."""
        return cls({part: tuple(Piece(*piece) for piece in pieces) for part, pieces in raw.items()})

    def find_changes(self, before: "Fingerprint") -> str:
        """Return what has changed since `before`, as the end of a sentence; nothing if nothing has."""
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
            yield f"{name} holds other samples, or in another order"
    if before != now and old == new:
        yield "the files come in another order"


def _counted(piece: Piece) -> str:
    return "" if piece.samples is None else f", with {piece.samples:,} samples"
