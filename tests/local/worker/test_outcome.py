"""What a job leaves behind: predictions, metrics, counts and weights. The lessons themselves are in test_examples.py."""

import csv
import os
import subprocess
import sys

import corpora
import pytest
import torch
from safetensors.torch import load_file

from trainwright.api.worker import Termination

pytestmark = pytest.mark.local


def rows(job):
    with (job.results / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_linear_regression_finds_the_line_and_predicts_in_its_units(make_job):
    job = make_job(
        {
            "model": {"layers": [{"dense": {"units": 1}}]},
            "dataset": {"synthetic": {"kind": "line", "samples": 200, "noise": 0.05}},
            "task": "regression",
            "optimizer": {"name": "sgd", "learningRate": 0.1},
            "training": {"epochs": 200, "globalBatchSize": 160},
            "evaluation": {"everyEpochs": 100},
            "prediction": {"inputs": [[0.0], [1.0], [-0.5]]},
        }
    )
    job.run()
    assert [float(row["prediction"]) for row in rows(job)] == pytest.approx([1, 3, 0], abs=0.05)
    test = job.summary["test"]["metrics"]
    assert test["r2"] > 0.99
    assert 0.02 < test["mae"] < 0.1, "the noise cannot be removed"
    assert len(job.summary["history"]) == 200


def test_linear_regression_from_a_csv_predicts_a_split_beside_the_truth(make_job):
    job = make_job(
        {
            "model": {"name": "linear"},
            "dataset": {"csv": {"path": "line.csv", "target": "price"}},
            "task": "regression",
            "optimizer": {"name": "sgd", "learningRate": 0.1},
            "training": {"steps": 300, "globalBatchSize": 64},
            "prediction": {"split": "test"},
        }
    )
    (job.folder / "data").mkdir()
    lines = [f"{x / 10},{1000 * x + 500}" for x in range(100)]
    (job.folder / "data" / "line.csv").write_text("size,price\n" + "\n".join(lines))
    job.run()
    for row in rows(job):
        assert float(row["prediction"]) == pytest.approx(float(row["target"]), rel=0.02, abs=200)
        assert float(row["target"]) % 1000 == pytest.approx(500, abs=0.1)


def test_lenet_on_cifar10_over_two_processes_uses_its_test_file(make_job):
    job = make_job(
        {
            "model": {"name": "lenet"},
            "dataset": {"cifar10": {"path": "cifar"}},
            "optimizer": {"name": "sgd", "learningRate": 0.02, "momentum": 0.9},
            "training": {"epochs": 3, "globalBatchSize": 14},
            "workers": {"processesPerWorker": 2},
            "prediction": {"split": "test"},
        }
    )
    corpora.write_cifar10(job.folder / "data" / "cifar", 20)
    job.run()
    assert len(rows(job)) == 20
    # 90 samples make six batches of 14 and one of 6.
    assert (job.summary["step"], job.summary["samples"], job.summary["processes"]) == (21, 270, 2)
    assert {beat.rank for beat in job.reports[-1].heartbeats} == {0, 1}


def test_evaluation_over_uneven_shards_equals_that_of_one_process(make_job):
    job = make_job(
        {
            "model": {"name": "mlp", "args": {"hidden": [8]}},
            "dataset": {"builtin": {"name": "wine"}, "split": {"validation": 0.2, "test": 0.11}},
            "training": {"epochs": 2, "globalBatchSize": 9},
            "workers": {"processesPerWorker": 3},
        }
    )
    job.run()
    from trainwright_worker.data.dataset import measure, process, read  # noqa: PLC0415
    from trainwright_worker.models.build import build  # noqa: PLC0415
    from trainwright_worker.tasks.table import make_task  # noqa: PLC0415

    spec = job.config.spec
    splits, classes = read(spec, "")
    data = process(spec, splits, measure(spec, splits, classes, ""))
    model = build(spec, make_task(spec).facts(data))
    model.load_state_dict(load_file(job.results / "weights.safetensors"))
    test = data.splits.test
    assert len(test) % 3
    with torch.inference_mode():
        outputs = model(test.inputs)
    hits = int((outputs.argmax(1) == test.targets).sum())
    assert job.summary["test"]["metrics"]["accuracy"] == hits / len(test)
    loss = float(torch.nn.functional.cross_entropy(outputs, test.targets))
    assert job.summary["test"]["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)


def test_the_program_itself_without_reports_or_libuv(make_job):
    job = make_job(
        {
            "model": {"name": "linear"},
            "dataset": {"builtin": {"name": "iris"}},
            "training": {"epochs": 2, "globalBatchSize": 8},
        },
        reports=None,
    )
    ending = job.folder / "termination"
    program = subprocess.run(
        [sys.executable, "-m", "trainwright_worker"],
        env={
            **os.environ,
            "TRAINWRIGHT_CONFIG": str(job.folder / "worker.json"),
            "TRAINWRIGHT_TERMINATION_LOG": str(ending),
            "OMP_NUM_THREADS": "1",
            "USE_LIBUV": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stdout + program.stderr
    assert program.stderr == ""
    report = Termination.model_validate_json(ending.read_text()).report
    assert report.phase == "Finished"
    assert report.checkpoints[-1].step == report.step == report.total_steps == 30
    assert report.results.folder == str(job.results)


@pytest.mark.parametrize(
    ("processes", "changes"),
    [
        (1, {}),
        (2, {"training": {"ema": {"decay": 0.5}}}),
        (2, {"parallelism": "fsdp", "training": {"ema": {"decay": 0.5}}}),
    ],
)
def test_results_are_of_the_best_step_where_that_is_kept(make_job, processes, changes):
    training = {"epochs": 12, "globalBatchSize": 64, "deterministic": True} | changes.get("training", {})
    job = make_job(
        {
            "model": {"name": "mlp", "args": {"hidden": [16]}},
            "dataset": {"builtin": {"name": "digits"}, "split": {"validation": 0.2, "test": 0.2}},
            "optimizer": {"name": "sgd", "learningRate": 4.0},  # so large that accuracy comes and goes
            "workers": {"processesPerWorker": processes},
            "checkpoint": {"keep": 1, "keepBest": True},
            "prediction": {"split": "validation"},
            **changes,
            "training": training,
        }
    )
    job.run()
    summary, report = job.summary, job.reports[-1]
    best, last = summary["best"], summary["step"]
    assert best["step"] < last == report.step
    assert summary["weightsOfStep"] == summary["test"]["step"] == best["step"]
    assert f"results are of step {best['step']}, the best evaluation, not of the last step, {last}" in report.message
    found = rows(job)
    hits = sum(row["prediction"] == row["target"] for row in found)
    assert hits / len(found) == pytest.approx(best["metrics"]["accuracy"])
    assert load_file(job.results / "weights.safetensors").keys()
