"""A table of what each data source offers. The rules between the data and the rest of a spec are derived from it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from trainwright.api.base import camel, listed


class Modality(StrEnum):
    """The kind of a sample."""

    ROWS = "rows of features"
    IMAGES = "images"
    TEXTS = "texts"
    FRAMES = "sequences of frames"


class Target(StrEnum):
    """The target of a sample, which a model learns to predict."""

    CLASS = "a class"
    NUMBERS = "numbers"
    TOKENS = "the next token"
    CHARACTERS = "a transcript"


@dataclass(frozen=True)
class Source:
    """A source of data, or one case of it.

    Attributes:
        field: Its field in `spec.dataset`, in snake case.
        modality: The kind of its samples.
        targets: The kinds of target that it can provide.
        having: The field of the source that is set in this case; empty for every case that no earlier row matches.
        value: What that field equals; empty for any value.
    """

    field: str
    modality: Modality
    targets: frozenset[Target]
    having: str = ""
    value: str = ""

    @property
    def words(self) -> str:
        """The source as a message names it."""
        name = camel(self.field)
        if self.value:
            return f"{name} {self.value}"
        if self.having:
            return f"{name} with {camel(self.having)}"
        return f"other {name}" if any(row.field == self.field and row.having for row in SOURCES) else name

    def matches(self, dataset: Any) -> bool:
        """Return whether a dataset is of this source and case."""
        source = getattr(dataset, self.field)
        found = source is not None and (not self.having or getattr(source, self.having) is not None)
        return found and (not self.value or getattr(source, self.having) == self.value)

    def cel(self, dataset: str) -> str:
        """Return `matches` as a CEL expression over the expression of a dataset."""
        source = f"{dataset}.{camel(self.field)}"
        if self.value:
            return f"(has({source}) && {source}.{camel(self.having)} == '{self.value}')"
        return f"(has({source}) && has({source}.{camel(self.having)}))" if self.having else f"has({source})"


_CLASS: Final = frozenset({Target.CLASS})
_CLASS_OR_NUMBERS: Final = frozenset({Target.CLASS, Target.NUMBERS})

SOURCES: Final = (
    Source("builtin", Modality.IMAGES, _CLASS, "name", "digits"),
    Source("builtin", Modality.ROWS, frozenset({Target.NUMBERS}), "name", "diabetes"),
    Source("builtin", Modality.ROWS, _CLASS),
    Source("csv", Modality.ROWS, _CLASS_OR_NUMBERS),
    Source("parquet", Modality.ROWS, _CLASS_OR_NUMBERS),
    Source("idx", Modality.IMAGES, _CLASS),
    Source("cifar10", Modality.IMAGES, _CLASS),
    Source("synthetic", Modality.ROWS, frozenset({Target.NUMBERS}), "kind", "line"),
    Source("synthetic", Modality.ROWS, _CLASS),
    Source("image_folder", Modality.IMAGES, _CLASS),
    Source("labeled_text", Modality.TEXTS, _CLASS),
    Source("text", Modality.TEXTS, frozenset({Target.TOKENS})),
    Source("huggingface", Modality.TEXTS, frozenset({Target.CLASS, Target.TOKENS}), "text"),
    Source("huggingface", Modality.IMAGES, _CLASS_OR_NUMBERS, "image"),
    Source("huggingface", Modality.ROWS, _CLASS_OR_NUMBERS, "features"),
    Source("webdataset", Modality.IMAGES, _CLASS),
    Source("labeled_sequences", Modality.FRAMES, frozenset({Target.CHARACTERS})),
)
"""Every source; of several rows with one field, the first that matches holds."""

SOURCE_FIELDS: Final = tuple(dict.fromkeys(source.field for source in SOURCES))


def find_source(dataset: Any) -> Source:
    """Return the row of a dataset's source."""
    return next(source for source in SOURCES if source.matches(dataset))


def sources_where(holds: Callable[[Source], bool]) -> str:
    """Return the sources that meet a condition, as a message names them."""
    return listed(dict.fromkeys(source.words for source in SOURCES if holds(source)), "or")


def choose_in_cel(dataset: str, value: Callable[[Source], str]) -> str:
    """Return a CEL expression that has, for the source of a dataset, the value that a function gives for its row.

    Args:
        dataset: The dataset as a CEL expression.
        value: Returns a CEL expression for a row.
    """
    cases: list[tuple[str, str]] = []
    for source in SOURCES:
        condition, result = source.cel(dataset), value(source)
        if cases and cases[-1][1] == result:
            cases[-1] = (f"{cases[-1][0]} || {condition}", result)
        else:
            cases.append((condition, result))
    *others, (_, last) = cases
    return "".join(f"{condition} ? {result} : " for condition, result in others) + last


def modality_in_cel(dataset: str, modality: Modality) -> str:
    """Return a CEL expression that is true if the samples of a dataset are of a kind."""
    return f"({choose_in_cel(dataset, lambda source: str(source.modality == modality).lower())})"
