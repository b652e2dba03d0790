"""Trackers as their own readers see them: TensorBoard's accumulator, an MLflow store, W&B's offline files."""

import json
import shutil
import struct
from pathlib import Path

import pytest
from corpora import object_store

from trainwright_worker.tracking.tensorboard import TensorboardTracker
from trainwright_worker.tracking.tracker import Record, RunInfo

pytestmark = pytest.mark.local

SPEC = {
    "model": {"name": "mlp", "args": {"hidden": [16]}},
    "dataset": {"builtin": {"name": "iris"}},
    "training": {"epochs": 3, "globalBatchSize": 12, "deterministic": True},
    "evaluation": {"everySteps": 5},
    "checkpoint": {"everySteps": 10},
}


def scalars(job):
    return points(Path(job.config.job_folder) / "tensorboard")


def points(folder):
    """Return the points of each tag as TensorBoard shows them: [(step, value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def test_tensorboard_shows_the_whole_run_and_nothing_twice_after_a_restart(make_job):
    job = make_job(SPEC)
    job.run()
    shown = scalars(job)
    steps = [step for step, _ in shown["train/loss"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == 30
    assert [step for step, _ in shown["validation/accuracy"]] == [5, 10, 15, 20, 25, 30]
    assert shown["test/loss"] == [(30, pytest.approx(job.summary["test"]["metrics"]["loss"], rel=1e-6))]
    assert {"train/learning_rate", "train/grad_norm", "train/samples_per_second"} <= set(shown)

    # The same job once more, as a restart finds it that lost its two newest checkpoints.

    for checkpoint in job.checkpoints[-2:]:
        shutil.rmtree(checkpoint)
    assert job.start(attempt=2).wait() == 0
    assert job.reports[-1].resumed_from_step == 10
    again = scalars(job)
    for tag in ("train/loss", "validation/loss"):
        steps = [step for step, _ in again[tag]]
        assert steps == sorted(set(steps)), tag
    assert again["validation/loss"] == shown["validation/loss"], "the steps up to 10 are still there, the rest is anew"


def test_the_test_of_the_best_weights_wipes_nothing_out(make_job):
    job = make_job(
        {
            "model": {"name": "mlp", "args": {"hidden": [256]}},
            "dataset": {
                "synthetic": {"kind": "clusters", "samples": 300, "features": 10, "classes": 5, "noise": 4.0},
                "split": {"validation": 0.3, "test": 0.2},
            },
            "optimizer": {"name": "adam", "learningRate": 0.01},
            "training": {"epochs": 12, "globalBatchSize": 50, "earlyStopping": {"metric": "loss", "patience": 100}},
            "checkpoint": {"keepBest": True},
        }
    )
    job.run()
    last, best = job.summary["step"], job.summary["weightsOfStep"]
    assert best < last
    shown = scalars(job)
    assert shown["train/loss"][-1][0] == last
    assert [step for step, _ in shown["validation/loss"]] == list(range(3, last + 1, 3))
    assert [step for step, _ in shown["test/loss"]] == [last]


def test_tensorboard_shows_nothing_twice_of_a_job_that_began_again_from_scratch(tmp_path):
    for attempt, last in ((1, 3), (2, 2)):
        tracker = TensorboardTracker(str(tmp_path), RunInfo("job", "u1", attempt, 0, {}, ""))
        tracker.write([Record(step, 1.0, {"train/loss": float(attempt)}) for step in range(1, last + 1)])
    assert points(tmp_path)["train/loss"] == [(1, 2.0), (2, 2.0)]
    tracker = TensorboardTracker(str(tmp_path), RunInfo("job", "u1", 3, 1, {}, ""))
    tracker.write([Record(2, 1.0, {"train/loss": 3.0})])
    assert points(tmp_path)["train/loss"] == [(1, 2.0), (2, 3.0)], "what came before the checkpoint is kept"


def test_event_files_lie_whole_in_a_bucket(tmp_path, monkeypatch):
    with object_store("runs") as store:
        for name, value in store.env.items():
            monkeypatch.setenv(name, value)
        tracker = TensorboardTracker("s3://runs/job/tensorboard", RunInfo("job", "u1", 1, 0, {}, ""))
        for step in (5, 10):
            tracker.write([Record(step, 1.0, {"train/loss": 1 / step})])
        (key,) = store.files.ls("runs/job/tensorboard")
        (tmp_path / Path(key).name).write_bytes(store.files.cat_file(key))
    assert points(tmp_path)["train/loss"] == [(5, pytest.approx(0.2)), (10, pytest.approx(0.1))]


def test_mlflow_and_wandb_hold_the_same_run(make_job, tmp_path, monkeypatch):
    store = tmp_path / "mlruns"
    trackers = {"mlflow": {"uri": f"file://{store}", "experiment": "lessons"}, "wandb": {"mode": "offline"}}
    job = make_job(SPEC | {"tracking": trackers})
    (worker,) = job.run()
    assert "tracking with" not in worker.log
    loss = job.summary["test"]["metrics"]["loss"]

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient  # noqa: PLC0415

    client = MlflowClient(tracking_uri=f"file://{store}")
    (run,) = client.search_runs([client.get_experiment_by_name("lessons").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "job")
    assert run.data.params["model.args.hidden.0"] == "16"
    assert run.data.params["training.globalBatchSize"] == "12"
    assert run.data.tags["trainwright.weights"] == str(job.results / "weights.safetensors")
    assert run.data.metrics["test/loss"] == pytest.approx(loss)
    history = client.get_metric_history(run.info.run_id, "validation/accuracy")
    assert [point.step for point in history] == [5, 10, 15, 20, 25, 30]

    (file,) = (job.results.parent / "wandb").glob("offline-run-*-u1/run-u1.wandb")
    rows = wandb_history(file)
    assert [row["_step"] for row in rows if "validation/loss" in row] == [5, 10, 15, 20, 25, 30]
    assert rows[-1]["test/loss"] == pytest.approx(loss)

    assert job.start(attempt=2).wait() == 0, "the restarted job goes on with its run, and repeats nothing"
    (again,) = client.search_runs([client.get_experiment_by_name("lessons").experiment_id])
    assert again.info.run_id == run.info.run_id
    assert [point.step for point in client.get_metric_history(run.info.run_id, "test/loss")] == [30]


def wandb_history(file):
    """Return the logged rows of an offline run, a LevelDB log of protobuf records after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2  # noqa: PLC0415

    content, place, part, rows = file.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        if 32_768 - place % 32_768 < 7:
            place += 32_768 - place % 32_768  # The rest of a block that has no room for a header is padding.
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        part += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record.FromString(part)
            part = b""
            if record.HasField("history"):
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                rows.append({"_step": record.history.step.num} | {key: json.loads(text) for key, text in items.items()})
    return rows


def test_a_tracker_that_fails_is_dropped_with_a_word(make_job, tmp_path):
    (tmp_path / "file").write_text("no folder")
    job = make_job(SPEC | {"tracking": {"mlflow": {"uri": f"file://{tmp_path}/file/mlruns"}}})
    (worker,) = job.run()
    assert worker.log.count("tracking with mlflow stopped: NotADirectoryError") == 1
    assert "tracking with mlflow stopped" in job.reports[-1].message
    assert scalars(job)["train/loss"][-1][0] == 30, "the others go on"
