"""Trackers as their own readers see them: TensorBoard's accumulator, an MLflow store, W&B's offline files."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.local

SPEC = {
    "model": {"name": "mlp", "args": {"hidden": [16]}},
    "dataset": {"builtin": {"name": "iris"}},
    "training": {"epochs": 3, "globalBatchSize": 12, "deterministic": True},
    "evaluation": {"everySteps": 5},
    "checkpoint": {"everySteps": 10},
}


def scalars(job):
    """Return the points of each tag as TensorBoard shows them: [(step, value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    accumulator = EventAccumulator(str(Path(job.config.job_folder) / "tensorboard"))
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
    import shutil  # noqa: PLC0415

    for checkpoint in job.checkpoints[-2:]:
        shutil.rmtree(checkpoint)
    assert job.start(attempt=2).wait() == 0
    assert job.reports[-1].resumed_from_step == 10
    again = scalars(job)
    for tag in ("train/loss", "validation/loss"):
        steps = [step for step, _ in again[tag]]
        assert steps == sorted(set(steps)), tag
    assert again["validation/loss"] == shown["validation/loss"], "the steps up to 10 are still there, the rest is anew"
