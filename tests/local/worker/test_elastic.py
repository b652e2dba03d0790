"""With `workers.minCount` a job goes on with fewer workers and grows back, and learns what it would have learnt anyway."""

import signal

import pytest
import safetensors.torch
import torch

from trainwright.api.exit_codes import ExitCode

from .conftest import wait_for

pytestmark = pytest.mark.local

PATIENCE = {"rendezvousPatienceSeconds": 1.0}


def spec_of(steps, **changes):
    """Return a job whose losses do not drift apart with rounding: softmax regression, in steps of 64 samples."""
    return {
        "model": {"name": "linear"},
        "dataset": {"builtin": {"name": "digits"}},
        "optimizer": {"name": "sgd", "learningRate": 0.01, "momentum": 0.9},
        "regularization": {"l2": 0.01},
        "training": {"steps": steps, "globalBatchSize": 64},
        "evaluation": {"everySteps": steps},
        "checkpoint": {"everySteps": 100},
        "restart": {"limit": 9},
        **changes,
    }


def elastic(least, workers=3):
    return {"workers": {"count": workers, "minCount": least, "terminationGracePeriodSeconds": 10}}


def assert_learnt_the_same(job, other):
    expected, found = safetensors.torch.load(other.weights), safetensors.torch.load(job.weights)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4)
    losses = [[entry["loss"] for entry in each.summary["history"]] for each in (job, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert job.reports[-1].samples == other.reports[-1].samples


def with_fewer(job, absent):
    return lambda: job.reports and job.reports[-1].absent == absent and job.reports[-1].step


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_a_job_goes_on_with_fewer_and_grows_back_to_the_same_end(make_job, parallelism):
    steps = 9000 if parallelism == "ddp" else 900
    alone = make_job(spec_of(steps), "alone")
    alone.run()
    shared = {"everySteps": 100, "persistentVolumeClaim": "shared"}
    spec = spec_of(steps, parallelism=parallelism, checkpoint=shared, **elastic(2))
    job = make_job(spec, "elastic", **PATIENCE)
    host, doomed, other = (job.start(index) for index in range(3))
    job.wait_for_step(200)
    assert job.reports[-1].absent == []
    doomed.kill(signal.SIGKILL)  # Its ranks die with it.
    wait_for(with_fewer(job, [1]), "training with two workers")
    shrunk = job.reports[-1]
    assert shrunk.resumed_from_step >= 100
    job.wait_for_step(shrunk.resumed_from_step + 150)
    before = job.step
    replacement = job.start(1, attempt=2)
    wait_for(lambda: job.reports[-1].absent == [] and job.reports[-1].resumed_from_step, "training with all again")
    assert job.reports[-1].resumed_from_step >= before, "growing loses no step"
    assert [worker.wait(240) for worker in (host, other, replacement)] == [0, 0, 0], host.log + replacement.log
    assert_learnt_the_same(job, alone)
    assert all(report.step <= steps for report in job.reports)


def test_the_first_start_does_with_fewer_too_and_a_single_worker_is_a_job(make_job):
    steps = 6000
    alone = make_job(spec_of(steps), "alone")
    alone.run()
    job = make_job(spec_of(steps, **elastic(1, workers=2)), "elastic", **PATIENCE)
    host = job.start(0)
    wait_for(with_fewer(job, [1]), "training alone")
    assert "1 process(es)" in host.log
    late = job.start(1)
    wait_for(lambda: job.reports[-1].absent == [], "training together")
    assert (host.wait(), late.wait()) == (0, 0), host.log + late.log
    assert "2 process(es)" in host.log
    assert_learnt_the_same(job, alone)


def test_below_the_minimum_nobody_trains(make_job):
    job = make_job(spec_of(100, **elastic(2)), **PATIENCE)
    host = job.start(0)
    report = wait_for(lambda: job.reports and job.reports[-1], "a report")
    assert (report.waiting.joined, report.waiting.wanted) == (1, 3)
    assert report.waiting.seconds > 2 * PATIENCE["rendezvousPatienceSeconds"]
    host.kill(signal.SIGTERM)
    assert host.wait() == ExitCode.PREEMPTED
    assert not any(report.step for report in job.reports)
