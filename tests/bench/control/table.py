"""The result of a bench: rows of figures with their goals, on the screen or in Markdown."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Number = float | None


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        what: What was measured.
        seen: The figure.
        wanted: The goal: the figure should be at most this.
        unit: The unit of both.
        ceiling: The figure of a bare client in the same minute, where that makes sense.
        note: A remark for the reader.
    """

    what: str
    seen: float
    wanted: Number
    unit: str
    ceiling: Number = None
    note: str = ""

    @property
    def missed(self) -> bool:
        """Whether the figure misses its goal."""
        return self.wanted is not None and self.seen > self.wanted

    def cells(self) -> list[str]:
        """Return the row as text."""
        seen = f"{_round(self.seen)} {self.unit}"
        return [
            self.what,
            f"**{seen}**" if self.missed else seen,
            "" if self.wanted is None else f"{_round(self.wanted)} {self.unit}",
            "" if self.ceiling is None else f"{_round(self.ceiling)} {self.unit}",
            "" if not self.ceiling else f"{self.seen / self.ceiling:.2f}",
            self.note,
        ]


HEADER = ["measure", "result", "goal (at most)", "bare client", "ratio", ""]


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table; figures that miss their goal are bold."""
    lines = [HEADER, ["---"] * len(HEADER), *(row.cells() for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def text(rows: Sequence[Row]) -> str:
    """Return the rows in columns."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def high(values: Sequence[float], share: float = 0.99) -> float:
    """Return the value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _round(value: float) -> str:
    if value == int(value):
        return f"{int(value)}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
