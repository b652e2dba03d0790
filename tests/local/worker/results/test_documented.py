"""What docs/results.md says of using results is run, word by word."""

import json
import re
from pathlib import Path

import pytest
from trained import BAD, GOOD, write_reviews

pytestmark = pytest.mark.local

DOCUMENT = Path(__file__).parents[4] / "docs" / "results.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def run(snippet, job):
    names = {"results": str(job.results)}
    exec(snippet, names)  # noqa: S102 - our own documentation
    return names


def test_a_row_of_a_table_gets_its_number(make_job):
    job = make_job(
        {
            "model": {"name": "linear"},
            "dataset": {"csv": {"path": "houses.csv", "target": "price"}},
            "task": "regression",
            "training": {"epochs": 60, "globalBatchSize": 32},
            "optimizer": {"name": "adam", "learningRate": 0.05},
            "export": {"formats": ["onnx"]},
        }
    )
    rooms = [(rooms, area, age) for rooms in range(1, 6) for area in range(40, 200, 20) for age in (1, 9, 30)]
    rows = [f"{r},{area},{age},{50_000 * r + 2_000 * area - 1_000 * age}" for r, area, age in rooms]
    place = job.folder / "data" / "houses.csv"
    place.parent.mkdir(exist_ok=True)
    place.write_text("\n".join(["rooms,area,age,price", *rows]))
    job.run()
    assert run(SNIPPETS[0], job)["price"].item() == pytest.approx(50_000 * 3 + 2_000 * 100 - 1_000 * 40, rel=0.02)


@pytest.mark.parametrize(("words", "label"), [(GOOD, "positive"), (BAD, "negative")])
def test_a_text_gets_its_class(make_job, words, label):
    job = make_job(
        {
            "model": {"name": "gru", "args": {"hidden": 16}},
            "dataset": {"labeledText": {"path": "reviews.jsonl"}},
            "training": {"epochs": 8, "globalBatchSize": 32},
            "optimizer": {"name": "adam", "learningRate": 0.01},
            "export": {"formats": ["onnx"]},
        }
    )
    place = job.folder / "data" / "reviews.jsonl"
    place.parent.mkdir(exist_ok=True)
    write_reviews(place)
    job.run()
    text = json.dumps(" ".join(("a", *words, "film")))
    assert run(SNIPPETS[1].replace('"a great film"', text), job)["answer"] == label
