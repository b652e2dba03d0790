"""Outputs as rows, and rows as files."""

import json
import math

import pytest
import torch

from trainwright.api.job import read_spec
from trainwright.api.spec import LossSpec
from trainwright.api.spec.objective import LossName
from trainwright.api.spec.outcome import PredictionFormat
from trainwright.api.spec.task import TaskName
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.data.measured import Measured
from trainwright_worker.data.normalization import Normalization
from trainwright_worker.results.predict import encode
from trainwright_worker.results.quality import evenly
from trainwright_worker.tasks.table import make_task


def rows(task, batch, outputs, *, classes=None, known=True, loss=None, **scale):
    raw = {"model": {"name": "mlp"}, "dataset": {"builtin": {"name": "iris"}}, "training": {"epochs": 1}}
    spec = read_spec(raw).model_copy(update={"task": task, "loss": None if loss is None else LossSpec(name=loss)})
    data = Dataset(None, Measured(classes, Normalization(**scale)))
    return make_task(spec).describe(batch, outputs, data, known=known)


@pytest.mark.parametrize(
    ("mean", "deviation", "scaled", "shown"),
    [
        (1_700_541_500.0, 260.0, 1.1538461446762085, 1_700_541_800.0),
        (0.0, 1.0, 1.2345678806304932e-09, 1.234568e-09),
        (0.0, 20.0, 0.1, 2.0),
        (5.0, 1.0, float("nan"), None),
    ],
)
def test_values_are_shown_with_the_digits_that_are_known(mean, deviation, scaled, shown):
    batch = Batch.of(torch.zeros(1, 1), torch.tensor([[scaled]]))
    scale = {"target_mean": (mean,), "target_deviation": (deviation,)}
    (row,) = rows(TaskName.REGRESSION, batch, torch.tensor([[scaled]]), **scale)
    assert row == {"target": shown, "prediction": shown}


def test_classes_have_names_and_probabilities():
    batch = Batch.of(torch.zeros(2, 1), torch.tensor([1, 0]))
    outputs = torch.tensor([[0.0, 0.0, torch.log(torch.tensor(2.0))], [5.0, 0.0, 0.0]])
    first, second = rows(TaskName.CLASSIFICATION, batch, outputs, classes=("a", "b", "c"))
    assert first["probabilities"] == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.5})
    assert (first["target"], first["prediction"]) == ("b", "c")
    assert (second["target"], second["prediction"]) == ("a", "a")
    assert "target" not in rows(TaskName.CLASSIFICATION, batch, outputs, classes=("a", "b", "c"), known=False)[0]


def test_what_is_no_number_is_nothing_in_json_and_csv():
    batch = Batch.of(torch.zeros(2, 1), torch.tensor([0, 0]))
    outputs = torch.tensor([[math.nan, 1.0], [1.0, 1.0]])
    unknown, known = rows(TaskName.CLASSIFICATION, batch, outputs, classes=("a", "b"))
    assert (unknown["prediction"], unknown["probabilities"]) == (None, {"a": None, "b": None})
    assert known["prediction"] == "a"
    assert b"".join(encode(iter([unknown]), PredictionFormat.CSV)).splitlines()[1] == b"a,,,"
    batch = Batch.of(torch.zeros(1, 1), torch.tensor([[0.5]]))
    [number] = rows(TaskName.REGRESSION, batch, torch.tensor([[math.inf]]))
    assert [json.loads(line) for line in encode(iter([number]), PredictionFormat.JSONL)] == [
        {"target": 0.5, "prediction": None}
    ]


def test_numbers_have_the_digits_that_mean_something():
    scale = {"target_mean": (152.13,), "target_deviation": (77.05,)}
    targets = (torch.tensor([[173.0], [124.0]], dtype=torch.float64) - 152.13) / 77.05
    batch = Batch.of(torch.zeros(2, 1), targets.float())
    assert [row["target"] for row in rows(TaskName.REGRESSION, batch, targets.float(), **scale)] == [173, 124]


def test_of_classes_that_were_asked_for_one_by_one_several_may_be_likely():
    batch, outputs = Batch.of(torch.zeros(1, 1), torch.tensor([0])), torch.tensor([[math.log(3), math.log(4), 0.0]])
    (row,) = rows(TaskName.CLASSIFICATION, batch, outputs, classes=("a", "b", "c"), loss=LossName.BCE)
    assert row["probabilities"] == pytest.approx({"a": 0.75, "b": 0.8, "c": 0.5})
    assert row["prediction"] == "b"


def test_numbers_are_in_the_units_of_the_target():
    batch = Batch.of(torch.zeros(1, 1), torch.tensor([[1.0]]))
    (row,) = rows(TaskName.REGRESSION, batch, torch.tensor([[0.5]]), target_mean=(100.0,), target_deviation=(10.0,))
    assert row == {"target": 110.0, "prediction": 105.0}
    batch, scale = (
        Batch.of(torch.zeros(1, 1), torch.ones(1, 2)),
        {"target_mean": (5.0, 0.0), "target_deviation": (2.0, 0.5)},
    )
    (row,) = rows(TaskName.REGRESSION, batch, torch.tensor([[0.5, 2.0]]), **scale)
    assert row == {"target": [7.0, 0.5], "prediction": [6.0, 1.0]}


def test_transcripts_are_read_as_ctc_means_them():
    best = torch.tensor([[1, 1, 0, 1, 2, 2, 0, 2], [2, 0, 1, 1, 1, 1, 1, 1]])
    mask = torch.tensor([[True] * 8, [True] * 2 + [False] * 6])
    batch = Batch.of(torch.zeros(2, 8, 1), torch.tensor([[1, 1, 2], [2, IGNORED, IGNORED]]), mask)
    outputs = torch.nn.functional.one_hot(best, 3).float()
    found = rows(TaskName.TRANSCRIPTION, batch, outputs, classes=("x", "y"))
    assert found == [{"target": "xxy", "prediction": "xxyy"}, {"target": "y", "prediction": "y"}]


def test_files_of_rows():
    said = [{"index": 0, "text": 'a "b",\nc', "prediction": "x", "probabilities": {"x": 0.75, "y": 0.25}}]
    assert b"".join(encode(iter(said), PredictionFormat.CSV)) == (
        b"index,text,prediction,probability_x,probability_y\r\n" + b'0,"a ""b"",\nc",x,0.75,0.25\r\n'
    )
    assert [json.loads(line) for line in encode(iter(said), PredictionFormat.JSONL)] == said
    several = [{"index": 0, "prediction": [1.5, 2.0]}]
    assert b"".join(encode(iter(several), PredictionFormat.CSV)) == b"index,prediction_0,prediction_1\r\n0,1.5,2\r\n"
    assert list(encode(iter(()), PredictionFormat.CSV)) == []


@pytest.mark.parametrize(("total", "count", "found"), [(10, 3, [0, 4, 9]), (2, 5, [0, 1]), (7, 1, [0]), (1, 4, [0])])
def test_samples_are_chosen_evenly(total, count, found):
    assert evenly(total, count).tolist() == found
