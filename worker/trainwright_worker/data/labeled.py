"""Reads texts with labels, and texts for language models, as tables."""

import torch

from trainwright.api.spec.corpora import LabeledTextData, TextData
from trainwright.api.spec.preparation import MissingTargets
from trainwright_worker.data.cells import Faults, Gaps
from trainwright_worker.data.corpus import Texts, chosen, without_blank_texts
from trainwright_worker.data.splits import note_ignored_files
from trainwright_worker.data.table import Table
from trainwright_worker.data.texts import JSONL, PLAIN, Files, PlainText, Reviews, open_labeled, open_text
from trainwright_worker.errors import DataError
from trainwright_worker.files import list_ignored_files

_LABELED = "spec.dataset.labeledText"
_TEXT = "spec.dataset.text"


def read_labeled(data: LabeledTextData, root: str, missing: MissingTargets) -> Table:
    """Return texts with their labels as classes.

    Args:
        data: The files and the names of their fields.
        root: Folder that relative paths are resolved against.
        missing: What to do with texts without a label.

    Raises:
        DataError: A file, a field or a value does not match the spec; shows the lines of invalid values.
    """
    faults = Faults()
    gaps = Gaps(missing, faults, f"{_LABELED}.labelField", data.label_field)
    field = f"{_LABELED}.path"
    stores = {name: (store, data.path, field) for name, store in open_labeled(data, data.path, root, field).items()}
    for name, path, key in (
        ("test", data.test_path, "testPath"),
        ("validation", data.validation_path, "validationPath"),
    ):
        if path is not None:
            field = f"{_LABELED}.{key}"
            stores[name] = (open_labeled(data, path, root, field)["train"], path, field)
    found = {name: store.read_labels(faults, gaps) for name, (store, _, _) in stores.items()}
    faults.check()
    for name, (_, path, field) in stores.items():
        if not len(found[name].labels):
            raise DataError(f"{field}: {path} contains no texts" + (" with a label" if gaps.count else ""))
    labels = found["train"].labels
    labels.check_names(data.label_field, f"{_LABELED}.labelField")
    classes = labels.classes()
    parts = {
        name: chosen(store, found[name].rows, found[name].labels.index(classes, field), found[name].origins)
        for name, (store, _, field) in stores.items()
    }
    others = [note for store, _, _ in stores.values() if isinstance(store, Reviews) for note in store.notes]
    notes = (*others, *gaps.notes(), *labels.notes(_LABELED))
    return Table(parts["train"], classes, parts.get("test"), parts.get("validation"), notes=notes)


def read_text(data: TextData, root: str) -> Table:
    """Return texts for a language model.

    Raises:
        DataError: There are no texts.
    """
    notes: list[str] = []

    def part(path: str, key: str) -> Texts:
        field = f"{_TEXT}.{key}"
        store = open_text(data, path, root, field)
        notes.extend(note_ignored_files(list_ignored_files(path, root, field, PLAIN + JSONL), field, "text extensions"))
        if isinstance(store, Files):
            texts, said = without_blank_texts(store, path)
            notes.extend(said)
            return texts
        counts = [sum(1 for _ in texts) for texts in store.files()]
        if not sum(counts):
            raise DataError(f"{_TEXT}.{key}: {path} contains no text")
        ends = torch.zeros(sum(counts), dtype=torch.bool)
        ends[torch.tensor(counts).cumsum(0) - 1] = True  # An empty file ends where the previous one does.
        ends[-1] = False  # No text follows.
        return Texts(store, torch.arange(len(ends)), torch.zeros(len(ends), dtype=torch.int64), ends)

    train = part(data.path, "path")
    test = None if data.test_path is None else part(data.test_path, "testPath")
    validation = None if data.validation_path is None else part(data.validation_path, "validationPath")
    return Table(train, None, test, validation, ordered=isinstance(train.store, PlainText), notes=tuple(notes))
