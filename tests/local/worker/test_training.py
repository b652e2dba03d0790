"""What a spec can ask of training, by real workers on real data."""

import json
import math
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from trainwright.api.exit_codes import ExitCode
from trainwright.api.job import read_spec
from trainwright_worker.batch import Batch
from trainwright_worker.facts import Facts
from trainwright_worker.tasks.table import make_task
from trainwright_worker.training.engine import Engine

pytestmark = pytest.mark.local

MLP = {"name": "mlp", "args": {"hidden": [32]}}


def spec_of(**changes):
    training = {"epochs": 6, "globalBatchSize": 64, "deterministic": True, **changes.pop("training", {})}
    for length in ("epochs", "steps"):
        if training.get(length) is None:
            training.pop(length, None)
    return {"model": MLP, "dataset": {"builtin": {"name": "digits"}}, "training": training, **changes}


def weights_of(job):
    return load_file(job.results / "weights.safetensors")


def distance(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_parts_over_two_processes_are_one_batch_of_one_process(make_job):
    sgd = {"name": "sgd", "learningRate": 0.05, "momentum": 0.9}
    # 1,437 samples are 29 batches of 48 and one of 45: three processes share both evenly.
    whole = make_job(spec_of(optimizer=sgd, training={"globalBatchSize": 48}), "whole")
    parts = make_job(
        spec_of(
            optimizer=sgd, training={"microBatchSize": 7, "globalBatchSize": 48}, workers={"processesPerWorker": 3}
        ),
        "parts",
    )
    whole.run()
    parts.run()
    assert distance(weights_of(whole), weights_of(parts)) < 1e-5
    losses = [[entry["loss"] for entry in job.summary["history"]] for job in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_weights_that_a_model_does_not_use_are_not_waited_for(make_job):
    small = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "patch_size": 4}
    # It has a token for masked patches, which classification masks none of.
    training = {"epochs": 1, "globalBatchSize": 256}
    job = make_job(
        spec_of(model={"name": "hf:dinov2", "args": small}, training=training, workers={"processesPerWorker": 2})
    )
    job.run()
    assert job.summary["step"] == 6


def test_gradient_descent_takes_one_step_per_pass(make_job):
    job = make_job(
        spec_of(
            training={"epochs": 60, "fullBatch": True, "microBatchSize": 400},
            optimizer={"name": "sgd", "learningRate": 0.5, "momentum": 0.9},
            evaluation={"everyEpochs": 60},
            workers={"processesPerWorker": 3},
        )
    )
    job.run()
    # 1,797 digits less a tenth for validation and another for the test: three times 479.
    assert (job.summary["step"], job.summary["samples"]) == (60, 60 * 1437)
    assert job.summary["test"]["metrics"]["accuracy"] > 0.9


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_as_well(make_job, precision):
    job = make_job(spec_of(training={"precision": precision, "epochs": 10}, optimizer={"learningRate": 0.005}))
    job.run()
    assert job.summary["test"]["metrics"]["accuracy"] > 0.9
    assert all(value.dtype == torch.float32 for value in weights_of(job).values())


def test_a_compiled_model_trains_as_it_is_written(make_job):
    plain = make_job(spec_of(training={"epochs": 3}), "plain")
    compiled = make_job(spec_of(training={"epochs": 3, "compile": True}), "compiled")
    plain.run()
    compiled.run()
    assert distance(weights_of(plain), weights_of(compiled)) < 1e-4


def test_a_shorter_batch_is_not_compiled_for():
    import torch._dynamo.utils as dynamo  # noqa: PLC0415

    spec = read_spec(spec_of(training={"compile": True, "globalBatchSize": 8}))
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 10))
    one_rank = SimpleNamespace(size=1, rank=0, device=torch.device("cpu"))
    loss = make_task(spec).loss(Facts((4,), 10))
    engine = Engine(spec, model, model, one_rank, loss, None)
    dynamo.counters.clear()
    for count in (5, 8, 8, 5, 8):
        batch = Batch.of(torch.randn(count, 4), torch.randint(10, (count,)))
        assert float(engine.accumulate(batch)) == pytest.approx(loss.mean(model(batch.input), batch).item(), rel=1e-5)
    assert dynamo.counters["stats"]["unique_graphs"] == 1


def text_spec(**changes):
    return {
        "model": {"name": "gpt", "args": {"dimension": 16, "heads": 2, "layers": 1}},
        "task": "language-modeling",
        "dataset": {
            "text": {"path": "story.txt"},
            "tokenizer": {"name": "character", "maxLength": 12},
            "split": {"validation": 0.1, "test": 0.1},
        },
        "optimizer": {"name": "sgd", "learningRate": 0.1},
        "training": {"steps": 12, "globalBatchSize": 6, "deterministic": True, **changes.pop("training", {})},
        **changes,
    }


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_tokens_weigh_the_same_however_they_are_divided(make_job, parallelism):
    one = make_job(text_spec(), "one")
    many = make_job(
        text_spec(training={"microBatchSize": 2}, workers={"processesPerWorker": 2}, parallelism=parallelism), "many"
    )
    for job in (one, many):
        (job.folder / "data").mkdir()
        (job.folder / "data" / "story.txt").write_text("once upon a time there was a small model. " * 30)
        job.run()
    assert distance(weights_of(one), weights_of(many)) < 1e-5
    figures = many.summary["test"]["metrics"]
    assert figures == pytest.approx(one.summary["test"]["metrics"], rel=1e-4)
    assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))


def test_every_metric_over_uneven_shards(make_job):
    names = ["top5-accuracy", "f1", "precision", "recall", "auroc"]
    job = make_job(
        spec_of(evaluation={"metrics": names}, workers={"processesPerWorker": 2}, prediction={"split": "test"})
    )
    job.run()
    from sklearn import metrics  # noqa: PLC0415

    rows = (job.results / "predictions.csv").read_text().splitlines()
    header = rows[0].split(",")
    table = [dict(zip(header, row.split(","), strict=True)) for row in rows[1:]]
    target, guess = ([int(row[key]) for row in table] for key in ("target", "prediction"))
    shares = torch.tensor([[float(row[f"probability_{number}"]) for number in range(10)] for row in table]).double()
    best = shares.topk(5).indices.tolist()
    expected = {
        "accuracy": metrics.accuracy_score(target, guess),
        "top5-accuracy": sum(right in five for right, five in zip(target, best, strict=True)) / len(target),
        "f1": metrics.f1_score(target, guess, average="macro"),
        "precision": metrics.precision_score(target, guess, average="macro"),
        "recall": metrics.recall_score(target, guess, average="macro"),
        "auroc": metrics.roc_auc_score(target, (shares / shares.sum(1, keepdim=True)).numpy(), multi_class="ovr"),
    }
    found = job.summary["test"]["metrics"]
    assert set(found) == {"loss", *expected}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_training_ends_early_as_a_success_and_stays_ended(make_job):
    stopping = {"metric": "accuracy", "patience": 2, "minDelta": 0.01}
    job = make_job(spec_of(training={"epochs": 200, "earlyStopping": stopping}, optimizer={"learningRate": 0.01}))
    job.run()
    last = job.reports[-1]
    assert last.step == last.total_steps == job.summary["step"] < 200 * 23
    assert "stopped early at step" in last.message
    before = job.weights
    shutil.rmtree(job.results)
    job.run()
    assert job.weights == before
    assert job.reports[-1].resumed_from_step == job.summary["step"]


def test_early_stopping_without_validation_is_refused(make_job):
    job = make_job(
        spec_of(training={"earlyStopping": {}}, dataset={"builtin": {"name": "iris"}, "split": {"validation": 0}})
    )
    worker = job.start()
    assert worker.wait() == ExitCode.USER_ERROR
    assert worker.termination.message.startswith("spec.training.earlyStopping: needs a validation split")


def test_the_average_of_the_weights_is_evaluated_and_exported(make_job):
    wild = {"name": "sgd", "learningRate": 0.7}
    plain = make_job(spec_of(optimizer=wild), "plain")
    averaged = make_job(spec_of(optimizer=wild, training={"ema": {"decay": 0.95}}), "averaged")
    plain.run()
    averaged.run()
    assert distance(weights_of(plain), weights_of(averaged)) > 1e-3
    assert [entry["loss"] for entry in plain.summary["history"]] == [e["loss"] for e in averaged.summary["history"]]
    losses = [job.reports[-1].best.metrics["loss"] for job in (plain, averaged)]
    assert losses[1] < losses[0]


def write_lines(folder, bad=()):
    """Write points on a plane as CSV; those in `bad` are so large that their squared error is no number."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(400, 2, generator=generator)
    rows = [f"{x},{y},{1e30 if number in bad else 3 * x - y}" for number, (x, y) in enumerate(points.tolist())]
    (folder / "plane.csv").write_text("x,y,z\n" + "\n".join(rows))


def plane(policy, **changes):
    return {
        "model": {"name": "linear"},
        "task": "regression",
        "dataset": {
            "csv": {"path": "plane.csv", "target": "z"},
            "normalize": "none",
            "split": {"validation": 0, "test": 0},
        },
        "optimizer": {"name": "sgd", "learningRate": 0.1},
        "training": {"epochs": 30, "globalBatchSize": 10},
        "health": {"nonFinite": policy},
        **changes,
    }


def plane_error(job):
    weights = weights_of(job)
    return max(abs(a - b) for a, b in zip(weights["0.weight"][0].tolist(), (3, -1), strict=True))


def test_what_is_not_finite_stops_by_default(make_job):
    job = make_job(plane("stop"))
    write_lines(job.folder / "data", bad={17})
    worker = job.start()
    assert worker.wait() == ExitCode.NON_FINITE
    assert "is not finite at step" in worker.termination.message


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_batch_is_skipped(make_job, processes):
    job = make_job(plane("skip", workers={"processesPerWorker": processes}))
    write_lines(job.folder / "data", bad={17})
    job.run()
    assert plane_error(job) < 0.05
    assert "30 step(s) skipped because the gradient was not finite" in job.reports[-1].message
    assert all(math.isfinite(entry["loss"]) for entry in job.summary["history"])
    assert job.summary["history"][-1]["loss"] < 0.01


def test_too_many_bad_batches_in_a_row_fail(make_job):
    job = make_job(plane("skip"))
    write_lines(job.folder / "data", bad=set(range(400)))
    worker = job.start()
    assert worker.wait() == ExitCode.NON_FINITE
    assert "the gradient was not finite in" in worker.termination.message


@pytest.mark.parametrize("processes", [1, 2])
def test_rolling_back_passes_over_the_bad_data(make_job, processes):
    workers = {"processesPerWorker": processes}
    training, checkpoint = {"epochs": 2, "globalBatchSize": 2, "deterministic": True}, {"everySteps": 7}
    spec = plane("rollback", training=training, checkpoint=checkpoint, workers=workers)
    job = make_job(spec)
    write_lines(job.folder / "data", bad={17})
    job.run()
    assert plane_error(job) < 0.5
    message = job.reports[-1].message
    assert message.count("the loss was not finite at step") == 2
    first = re.search(
        r"not finite at step (\d+): back to step (\d+), skipping the data of steps (\d+) to (\d+)", message
    )
    seen, back, begin, end = map(int, first.groups())
    assert seen == end >= begin > back
    assert end - back <= 7
    assert job.summary["step"] == job.reports[-1].step == 400
    assert all(math.isfinite(entry["loss"]) for entry in job.summary["history"])
    if processes == 1:
        again = make_job(spec, "again")
        write_lines(again.folder / "data", bad={17})
        again.run()
        assert again.weights == job.weights, "what is passed over does not depend on how fast the machine was"


def test_rolling_back_has_an_end(make_job):
    job = make_job(plane("rollback"))
    write_lines(job.folder / "data", bad=set(range(400)))
    worker = job.start()
    assert worker.wait() == ExitCode.NON_FINITE
    assert "after 3 rollbacks" in worker.termination.message


def test_a_small_model_learns_from_its_teacher(make_job):
    teacher = make_job(spec_of(training={"epochs": 15}, optimizer={"learningRate": 0.005}), "teacher")
    teacher.run()
    # Nothing but the teacher says what is right: alpha is 1.
    lesson = {"weights": "teacher", "alpha": 1, "temperature": 3}
    student = make_job(
        spec_of(
            model={"name": "linear"}, distillation=lesson, training={"epochs": 15}, optimizer={"learningRate": 0.01}
        ),
        "student",
    )
    shutil.copytree(teacher.results, student.folder / "data" / "teacher")
    student.run()
    assert student.summary["test"]["metrics"]["accuracy"] > 0.9
    assert student.summary["history"][-1]["loss"] < student.summary["history"][0]["loss"] / 2


def test_teachers_that_cannot_teach_are_refused(make_job):
    teacher = make_job(spec_of(training={"epochs": 1}, dataset={"builtin": {"name": "iris"}}), "teacher")
    teacher.run()
    user, data = ExitCode.USER_ERROR, ExitCode.DATA
    for name, lesson, code, words in (
        ("gone", {"weights": "nowhere"}, data, "spec.distillation.weights: nowhere does not exist"),
        ("other", {"weights": "teacher"}, user, "spec.distillation.weights: teacher was trained on the classes"),
        (
            "named",
            {"weights": "teacher", "model": "mlp", "args": {"hidden": [9]}},
            user,
            "spec.distillation.weights: the weights do not match the model",
        ),
        ("wrong", {"weights": "teacher", "model": "mlp", "args": {"depth": 9}}, user, "spec.distillation.args: "),
    ):
        job = make_job(spec_of(distillation=lesson), name)
        copy = shutil.copytree(teacher.results, job.folder / "data" / "teacher")
        if name == "named":
            (copy / "results.json").unlink()  # As weights from elsewhere are, which say nothing of their data.
        worker = job.start()
        assert worker.wait() == code, worker.log
        assert worker.termination.message.startswith(words), worker.termination.message


def test_frames_become_text(make_job):
    job = make_job(
        {
            "model": {"name": "gru", "args": {"hidden": 32}},
            "task": "transcription",
            "dataset": {
                "labeledSequences": {"path": "frames.jsonl", "framesField": "frames", "textField": "text"},
                "split": {"validation": 0.1, "test": 0.2},
            },
            "optimizer": {"learningRate": 0.01},
            "training": {"epochs": 25, "globalBatchSize": 16, "gradientClipping": 1.0},
        }
    )
    (job.folder / "data").mkdir()
    generator = torch.Generator().manual_seed(0)
    lines = []
    for _ in range(300):
        text = [
            int(letter)
            for letter in torch.randint(3, (int(torch.randint(1, 5, (1,), generator=generator)),), generator=generator)
        ]
        frames = []
        for letter in text:
            # Each letter is loud for two frames on a channel of its own, then there is silence.
            frames += [[float(letter == channel) for channel in range(3)]] * 2 + [[0.0] * 3]
        lines.append(json.dumps({"frames": frames, "text": "".join("abc"[letter] for letter in text)}))
    (job.folder / "data" / "frames.jsonl").write_text("\n".join(lines))
    job.run()
    metrics = job.summary["test"]["metrics"]
    assert set(metrics) == {"loss", "character-error-rate"}
    assert metrics["character-error-rate"] < 0.05
