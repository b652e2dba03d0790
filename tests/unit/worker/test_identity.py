"""Predictions lead back to the data: to the file and the row, and to the text as it stands there."""

import json

import pytest

from trainwright.api.job import read_spec
from trainwright_worker.data.dataset import measure, process, read
from trainwright_worker.data.given import Given
from trainwright_worker.results.identity import Identities


def dataset_of(root, dataset, **changes):
    spec = read_spec({"model": {"name": "mlp"}, "dataset": dataset, "training": {"epochs": 1}, **changes})
    splits, classes = read(spec, str(root))
    return process(spec, splits, measure(spec, splits, classes, str(root)))


@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_of_shuffled_splits_are_found_in_their_files(tmp_path, split):
    for name, begin in (("a", 0), ("b", 50)):
        lines = [f"{number},{'uv'[number % 2]}" for number in range(begin, begin + 50)]
        (tmp_path / f"{name}.csv").write_text("x,label\n" + "\n".join(lines) + "\n")
    data = dataset_of(
        tmp_path, {"csv": {"path": "a.csv", "target": "label"}, "split": {"test": 0.3}, "normalize": "none"}
    )
    samples = getattr(data.splits, split)
    identities = Identities(samples)
    for index, value in enumerate(samples.inputs[:, 0].tolist()):
        found = identities.describe(index)
        line = (tmp_path / "a.csv").read_text().splitlines()[found["row"] - 1]
        assert (found["file"], line.partition(",")[0]) == (str(tmp_path / "a.csv"), str(int(value)))


def test_texts_are_given_back_as_they_stand_in_the_data(tmp_path):
    texts = [f"Some  Text,\nnumber {number}: “é” UPPER" for number in range(40)]
    with (tmp_path / "a.jsonl").open("w") as file:
        for number, text in enumerate(texts):
            file.write(json.dumps({"text": text, "label": "uv"[number % 2]}) + "\n")
    source = {"labeledText": {"path": "a.jsonl"}, "tokenizer": {"lowercase": True}, "split": {"test": 0.5}}
    data = dataset_of(tmp_path, source, model={"name": "lstm"})
    identities = Identities(data.splits.test)
    found = [identities.describe(index) for index in range(len(data.splits.test))]
    assert [row["text"] for row in found] == [texts[row["row"] - 1] for row in found]
    assert len({row["row"] for row in found}) == 20


def test_what_the_spec_gives_has_no_file(tmp_path):
    data = dataset_of(tmp_path, {"builtin": {"name": "iris"}})
    assert Identities(Given(data.batch_of_rows([[1.0, 2.0, 3.0, 4.0]]))).describe(0) == {}
    texts = Given(data.batch_of_rows([[1.0, 2.0, 3.0, 4.0]]), ["a text"])
    assert Identities(texts).describe(0) == {"text": "a text"}
