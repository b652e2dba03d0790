"""What real jobs leave behind: predictions of several ranks, of texts and images, generated text, and what goes wrong."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file
from trained import write_reviews

from trainwright.api.exit_codes import ExitCode
from trainwright_worker.batch import run_model
from trainwright_worker.data.dataset import measure, process, read
from trainwright_worker.models.build import build
from trainwright_worker.models.generation import generate
from trainwright_worker.tasks.table import make_task

pytestmark = pytest.mark.local

IRIS = {"builtin": {"name": "iris"}, "split": {"validation": 0.1, "test": 0.14}}


def last(job):
    """Return the results as rank 0 reported them."""
    return job.reports[-1].results


def jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def trained_model(job):
    """Return the data of a finished job and its model, from the spec and the weights alone."""
    spec, root = job.config.spec, job.config.data_root
    splits, classes = read(spec, root)
    data = process(spec, splits, measure(spec, splits, classes, root))
    model = build(spec, make_task(spec).facts(data), root)
    model.load_state_dict(load_file(job.results / "weights.safetensors"))
    return data, model.eval()


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_predictions_of_several_ranks_are_those_of_the_weights_in_the_order_of_the_data(make_job, parallelism):
    job = make_job(
        {
            "model": {"name": "mlp", "args": {"hidden": [16]}},
            "dataset": IRIS,
            "training": {"epochs": 12, "globalBatchSize": 24},
            "optimizer": {"name": "adam", "learningRate": 0.02},
            "workers": {"processesPerWorker": 2},
            "parallelism": parallelism,
            "prediction": {"split": "test", "format": "jsonl"},
            "export": {"formats": ["onnx"]},
        }
    )
    job.run()
    rows = jsonl(job.results / "predictions.jsonl")
    assert [row["index"] for row in rows] == list(range(21)), "an odd number, so the ranks' shares differ"
    data, model = trained_model(job)
    batch = data.splits.test.take(torch.arange(21))
    with torch.no_grad():
        shares = run_model(model, batch).softmax(1)
    for row, expected, target in zip(rows, shares.tolist(), batch.target.tolist(), strict=True):
        assert list(row["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
        assert row["target"] == data.classes[target]
    hits = sum(row["prediction"] == row["target"] for row in rows)
    assert job.summary["test"]["metrics"]["accuracy"] == hits / 21 > 0.8
    results = last(job)
    assert results.predictions == str(job.results / "predictions.jsonl")
    assert [export.format for export in results.exports] == ["safetensors", "onnx"]
    assert results.exports[1].metrics["accuracy"] == hits / 21
    assert results.exports[0].bytes == (job.results / "weights.safetensors").stat().st_size
    assert job.summary["exports"] == [export.to_wire() for export in results.exports]


def test_texts_are_predicted_and_explained(make_job):
    job = make_job(
        {
            "model": {"name": "gru", "args": {"hidden": 16}},
            "dataset": {"labeledText": {"path": "reviews.jsonl"}},
            "training": {"epochs": 12, "globalBatchSize": 32},
            "optimizer": {"name": "adam", "learningRate": 0.01},
            "prediction": {"texts": ["a superb film, brilliant and moving", "it was dull\nand dreadful"]},
            "explanation": {"methods": ["shap"], "samples": 1, "split": "validation"},
        }
    )
    (job.folder / "data").mkdir()
    write_reviews(job.folder / "data" / "reviews.jsonl")
    job.run()
    with (job.results / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == job.config.spec.prediction.texts
    assert [row["prediction"] for row in rows] == ["positive", "negative"]
    assert list(rows[0]) == ["index", "text", "prediction", "probability_negative", "probability_positive"]
    assert last(job).explanations == str(job.results / "explanations")
    assert sorted(path.name for path in (job.results / "explanations").iterdir()) == [
        "validation-000000.json",
        "validation-000000.png",
    ]


def test_a_language_model_writes_what_it_has_learnt(make_job):
    line = "the quick brown fox jumps over the lazy dog.\n"
    job = make_job(
        {
            "model": {"name": "gpt", "args": {"layers": 1, "heads": 2, "dimension": 32}},
            "dataset": {"text": {"path": "plain.txt"}, "tokenizer": {"name": "character", "maxLength": 48}},
            "task": "language-modeling",
            "training": {"steps": 150, "globalBatchSize": 16},
            "optimizer": {"name": "adamw", "learningRate": 0.01},
            "generation": {"prompts": ["the quick brown ", "fox jumps over "], "maxTokens": 20, "temperature": 0},
        }
    )
    (job.folder / "data").mkdir()
    (job.folder / "data" / "plain.txt").write_text(line * 400)
    (worker,) = job.run()
    written = jsonl(job.results / "generated.jsonl")
    assert written[0]["text"].startswith("fox jumps over the")
    data, model = trained_model(job)
    begin = data.tokenizer.encode("fox jumps over ")
    ids = generate(model, torch.tensor([begin]), 20, temperature=0)[0].tolist()
    assert written[1] == {"prompt": "fox jumps over ", "text": data.tokenizer.decode(ids[len(begin) :]), "tokens": 20}
    assert [row["tokens"] for row in written] == [20, 20]
    assert "generated: the quick brown fox jumps over " in worker.log
    results = last(job)
    assert results.generated == str(job.results / "generated.jsonl")
    assert [sample.text for sample in results.samples] == [row["text"] for row in written]


def test_a_failed_export_costs_nothing_else(make_job):
    job = make_job(
        {
            "model": {"name": "linear"},
            "dataset": IRIS,
            "training": {"epochs": 1, "globalBatchSize": 16},
            "prediction": {"split": "test"},
            "export": {"formats": ["onnx", "int8"]},
        }
    )
    (job.results / "model.onnx" / "in-the-way").mkdir(parents=True)
    (worker,) = job.run()
    results = last(job)
    (problem,) = results.problems
    assert problem.startswith("spec.export.formats: onnx: IsADirectoryError")
    assert [export.format for export in results.exports] == ["safetensors"]
    assert (job.results / "predictions.csv").exists()
    assert problem in worker.log
    assert problem in job.reports[-1].message
    assert job.summary["problems"] == [problem]


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (
            {"explanation": {"split": "validation"}, "dataset": IRIS | {"split": {"validation": 0}}},
            "spec.explanation.split: validation, but spec.dataset.split.validation holds out no samples",
        ),
        ({"prediction": {"inputs": [[1, 2, 3]]}}, "spec.prediction.inputs[0]: 3 numbers, but the data has 4 features"),
        (
            {"tracking": {"mlflow": {"uri": "sqlite:////tmp/x.db"}}},
            "spec.tracking.mlflow.uri: sqlite needs the full mlflow package, which the image lacks",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_before_training(make_job, wish, message):
    job = make_job(
        {"model": {"name": "linear"}, "dataset": IRIS, "training": {"epochs": 1, "globalBatchSize": 16}, **wish}
    )
    worker = job.start()
    assert worker.wait() == 64
    assert worker.termination.message == message
    assert not job.checkpoints


def test_one_extreme_value_in_the_test_split_costs_its_measure_and_nothing_else(make_job):
    job = make_job(
        {
            "task": "regression",
            "model": {"name": "linear"},
            "dataset": {"csv": {"path": "train.csv", "testPath": "test.csv", "target": "t"}},
            "training": {"epochs": 2, "globalBatchSize": 8},
        }
    )
    data = job.folder / "data"
    data.mkdir(exist_ok=True)
    (data / "train.csv").write_text("a,b,t\n" + "".join(f"{number},0,{2 * number}\n" for number in range(64)))
    (data / "test.csv").write_text("a,b,t\n1,0,2\n2,1e30,4\n")
    job.run()
    problem = "the loss on the test split is not finite at step 16; check the split for extreme values"
    assert last(job).problems == [problem]
    assert job.summary["problems"] == [problem]
    assert job.summary["test"] is None
    assert set(load_file(job.results / "weights.safetensors"))
    assert problem in job.reports[-1].message


def test_given_inputs_beyond_the_numbers_that_are_computed_with_are_refused(make_job):
    job = make_job(
        {
            "model": {"name": "linear"},
            "dataset": IRIS,
            "training": {"epochs": 1, "globalBatchSize": 8},
            "prediction": {"inputs": [[1, 2, 3, 4], [1, 1e39, 1, 1]]},
        }
    )
    worker = job.start()
    assert worker.wait() == ExitCode.USER_ERROR, worker.log
    assert worker.termination.message == "spec.prediction.inputs[1][1]: 1e+39 exceeds the range of 32-bit numbers"
