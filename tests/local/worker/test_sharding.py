"""The same training with the state whole on every process or split over them, and every change from one to the other."""

import csv
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F  # noqa: N812 - its usual name

from trainwright_worker.data.load import load
from trainwright_worker.models.build import build
from trainwright_worker.tasks.table import make_task

pytestmark = pytest.mark.local
ALONE = SimpleNamespace(rank=0, size=1, broadcast=lambda content: content)
NORMS = {
    "layers": [
        {"conv2d": {"channels": 4, "kernelSize": 3}},
        {"batchNorm": {"activation": "relu"}},
        {"globalAvgPool": {}},
        {"dense": {"units": 10}},
    ]
}


def spec_of(steps, processes=1, parallelism="ddp", **changes):
    spec = {
        "model": {"name": "mlp", "args": {"hidden": [33, 32]}},
        "dataset": {"builtin": {"name": "digits"}},
        "optimizer": {"name": "adamw", "weightDecay": 0.01},
        "schedule": {"name": "cosine"},
        "regularization": {"l2": 0.01},
        "training": {
            "steps": steps, "globalBatchSize": 64, "deterministic": True, "seed": 5, "gradientClipping": 1.0,
            "ema": {"decay": 0.9},
        },
        "evaluation": {"everySteps": 25},
        "checkpoint": {"everySteps": 20},
        "workers": {"processesPerWorker": processes},
        "parallelism": parallelism,
    }  # fmt: skip
    return spec | changes


def weights_of(job):
    return safetensors.torch.load(job.weights)


def assert_close(some, other, tolerance=1e-5):
    assert some.keys() == other.keys()
    for name, value in some.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=tolerance)


def losses_of(job):
    return [entry["loss"] for entry in job.summary["history"]]


def test_state_moves_between_all_ways_to_hold_it_without_losing_a_bit(make_job):
    ways = [(2, "ddp"), (1, "ddp"), (2, "fsdp"), (3, "fsdp"), (1, "fsdp"), (2, "ddp")]
    weights = None
    # A job that has nothing left to do loads its last checkpoint and writes its results anew.
    for processes, parallelism in ways:
        spec = spec_of(30, processes, parallelism)
        spec["training"]["globalBatchSize"] = 66
        job = make_job(spec, "job")
        job.run()
        assert weights is None or job.reports[-1].resumed_from_step == 30
        assert weights is None or job.weights == weights, (processes, parallelism)
        weights = job.weights


def test_training_goes_on_closely_across_changes(make_job):
    # The schedule looks at the last step, so a run in pieces needs a constant one. Adam would make much of rounding.
    constant = {"schedule": {"name": "constant"}, "optimizer": {"name": "sgd", "learningRate": 0.05, "momentum": 0.9}}
    straight = make_job(spec_of(20, **constant), "straight")
    straight.run()
    # All within the first epoch: the last batch of one is not divided evenly.
    ways = [(5, 2, "ddp"), (10, 1, "ddp"), (15, 2, "fsdp"), (20, 2, "ddp")]
    for steps, processes, parallelism in ways:
        job = make_job(spec_of(steps, processes, parallelism, **constant), "pieces")
        job.run()
    assert job.reports[-1].resumed_from_step == 15
    assert_close(weights_of(job), weights_of(straight))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb", "lars", "muon"])
def test_sharded_training_learns_what_unsharded_does_and_resumes_exactly(make_job, optimizer):
    settings = {"name": optimizer, "learningRate": 0.01} | ({"momentum": 0.9} if optimizer == "sgd" else {})
    whole, split, resumed = (
        make_job(spec_of(45, 2, parallelism, optimizer=settings), name)
        for name, parallelism in (("whole", "ddp"), ("split", "fsdp"), ("resumed", "fsdp"))
    )
    whole.run()
    split.run()
    assert losses_of(split) == pytest.approx(losses_of(whole), rel=1e-4)
    assert split.summary["test"]["metrics"] == pytest.approx(whole.summary["test"]["metrics"], rel=2e-2)
    # Muon orthogonalizes in bf16.
    assert_close(weights_of(split), weights_of(whole), 2e-2 if optimizer == "muon" else 1e-3)
    # A copy of the run as it was at step 40.
    for path in split.checkpoints:
        if path.name != "step-00000045":
            copy = resumed.folder / "checkpoints" / "job-u1" / "checkpoints" / path.name
            copy.mkdir(parents=True)
            for file in path.iterdir():
                (copy / file.name).write_bytes(file.read_bytes())
    resumed.run()
    assert resumed.reports[-1].resumed_from_step == 40
    assert resumed.weights == split.weights
    assert resumed.summary["history"] == split.summary["history"]


def assert_figures_are_of_the_weights(job, tolerance):
    """Check the test's loss and the predictions against a model with the weights that were written."""
    dataset = load(job.config.spec, job.config.data_root, ALONE)
    model = build(job.config.spec, make_task(job.config.spec).facts(dataset))
    model.load_state_dict(weights_of(job))
    test = dataset.splits.test.take(torch.arange(len(dataset.splits.test)))
    with torch.no_grad():
        outputs = model.eval()(test.input)
    loss = float(F.cross_entropy(outputs, test.target))
    assert job.summary["test"]["metrics"]["loss"] == pytest.approx(loss, rel=tolerance)
    with (job.results / "predictions.csv").open() as file:
        rows = [[float(row[f"probability_{digit}"]) for digit in range(10)] for row in csv.DictReader(file)]
    torch.testing.assert_close(torch.tensor(rows), outputs.softmax(1), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("parallelism", "changes", "tolerance"),
    [("ddp", {}, 1e-5), ("fsdp", {"ema": {"decay": 0.9}}, 1e-5), ("fsdp", {"precision": "bf16"}, 1e-2)],
)
def test_figures_are_those_of_the_weights_that_are_written(make_job, parallelism, changes, tolerance):
    spec = spec_of(12, 2, parallelism, model=NORMS, prediction={"split": "test"})
    spec["training"] = {"steps": 12, "globalBatchSize": 64} | changes
    job = make_job(spec)
    job.run()
    assert_figures_are_of_the_weights(job, tolerance)
    # The end of a job once more, from its last checkpoint: the statistics that every rank has are the saved ones.
    before = job.summary["test"]
    job.run()
    assert (job.reports[-1].resumed_from_step, job.summary["test"]) == (12, before)
    assert_figures_are_of_the_weights(job, tolerance)
