"""Texts with labels, and texts for language models, as tables."""

import torch

from trainwright.api.spec.corpora import LabeledTextData, TextData
from trainwright_worker.data.corpus import Texts, filled, whole
from trainwright_worker.data.splits import say_left_out
from trainwright_worker.data.table import Table
from trainwright_worker.data.texts import JSONL, PLAIN, Files, PlainText, Reviews, open_labeled, open_text
from trainwright_worker.errors import DataError
from trainwright_worker.files import list_left_out

_LABELED = "spec.dataset.labeledText"
_TEXT = "spec.dataset.text"


def read_labeled(data: LabeledTextData, root: str) -> Table:
    """Return texts with the classes that their labels spell.

    Raises:
        DataError: A file, a field or a value is not as the spec says.
    """
    stores = open_labeled(data, data.path, root, f"{_LABELED}.path")
    train = stores["train"]
    labels = train.labels()
    if not len(labels):
        raise DataError(f"{_LABELED}.path: {data.path} holds no texts")
    classes = labels.classes()

    def part(store: Files | Reviews, field: str) -> Texts:
        found = store.labels()
        if not len(found):
            raise DataError(f"{field}: it leads to no texts")
        return whole(store, found.index(classes, field))

    def own(name: str, path: str | None, key: str) -> Texts | None:
        """Return a split from files of its own, else from a folder beside that of training."""
        if path is not None:
            return part(open_labeled(data, path, root, f"{_LABELED}.{key}")["train"], f"{_LABELED}.{key}")
        return part(stores[name], f"{_LABELED}.path") if name in stores else None

    test, validation = (
        own("test", data.test_path, "testPath"),
        own("validation", data.validation_path, "validationPath"),
    )
    notes = [note for store in stores.values() if isinstance(store, Reviews) for note in store.notes]
    return Table(whole(train, labels.index(classes, _LABELED)), classes, test, validation, notes=tuple(notes))


def read_text(data: TextData, root: str) -> Table:
    """Return texts for a language model.

    Raises:
        DataError: There are none.
    """
    notes: list[str] = []

    def part(path: str, key: str) -> Texts:
        field = f"{_TEXT}.{key}"
        store = open_text(data, path, root, field)
        notes.extend(say_left_out(list_left_out(path, root, field, PLAIN + JSONL), field, "none of texts"))
        if isinstance(store, Files):
            texts, said = filled(store, path)
            notes.extend(said)
            return texts
        counts = [sum(1 for _ in texts) for texts in store.files()]
        if not sum(counts):
            raise DataError(f"{_TEXT}.{key}: {path} holds no text")
        ends = torch.zeros(sum(counts), dtype=torch.bool)
        ends[torch.tensor(counts).cumsum(0) - 1] = True  # An empty file ends where the one before it does.
        ends[-1] = False  # Nothing comes after it.
        return Texts(store, torch.arange(len(ends)), torch.zeros(len(ends), dtype=torch.int64), ends)

    train = part(data.path, "path")
    test = None if data.test_path is None else part(data.test_path, "testPath")
    validation = None if data.validation_path is None else part(data.validation_path, "validationPath")
    return Table(train, None, test, validation, ordered=isinstance(train.store, PlainText), notes=tuple(notes))
