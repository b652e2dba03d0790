"""An interrupted run must end bit for bit like one that was not."""

import os
import random
import signal

import pytest

from .conftest import wait_for

pytestmark = pytest.mark.local

OPTIMIZERS = {
    "momentum": {"name": "sgd", "learningRate": 0.02, "momentum": 0.9, "nesterov": True},
    "adam": {"name": "adam"},
    "adamw": {"name": "adamw", "weightDecay": 0.01},
    "adafactor": {"name": "adafactor", "learningRate": 0.01},
    "lamb": {"name": "lamb", "learningRate": 0.005, "weightDecay": 0.01},
    "lars": {"name": "lars", "learningRate": 1.0, "momentum": 0.9, "weightDecay": 0.001},
    "muon": {"name": "muon", "learningRate": 0.002, "weightDecay": 0.01},
}

STATES = {
    "adafactor": {"training": {"ema": {"decay": 0.98}, "microBatchSize": 24}},
    "lamb": {"training": {"ema": {}, "precision": "fp16"}, "model": {"name": "mlp", "args": {"hidden": [64, 64]}}},
    "lars": {"training": {"microBatchSize": 10}, "health": {"nonFinite": "skip"}, "workers": {"processesPerWorker": 2}},
    "muon": {
        "training": {"earlyStopping": {"patience": 8}, "precision": "bf16"},
        "model": {"name": "mlp", "args": {"hidden": [64, 64]}},
        "schedule": {"name": "one-cycle"},
    },
}
"""What else is state: averages, the scale of fp16, counts of steps left out and of patience lost."""


def spec_of(optimizer, workers=1, processes=1):
    return {
        "model": {"name": "cnn", "args": {"channels": [8], "hidden": [32]}},
        "dataset": {"builtin": {"name": "digits"}},
        "optimizer": OPTIMIZERS[optimizer],
        "schedule": {"name": "cosine", "warmupSteps": 20},
        "regularization": {"dropout": 0.2, "l2": 0.0001},
        "training": {"epochs": 14, "globalBatchSize": 64, "deterministic": True, "seed": 7, "gradientClipping": 5.0},
        "evaluation": {"everySteps": 37},
        "checkpoint": {"everySteps": 53},
        "workers": {"count": workers, "processesPerWorker": processes},
    }


def assert_same_outcome(interrupted, straight):
    assert interrupted.reports[-1].resumed_from_step
    assert interrupted.weights == straight.weights
    assert interrupted.summary["history"] == straight.summary["history"]
    assert interrupted.summary["test"] == straight.summary["test"]
    assert interrupted.summary["best"] == straight.summary["best"]


@pytest.mark.parametrize(("optimizer", "processes"), [("momentum", 1), ("adam", 2)])
def test_killed_at_a_random_step_ends_with_the_same_bits(make_job, optimizer, processes):
    spec = spec_of(optimizer, 1, processes)
    straight = make_job(spec, "straight")
    straight.run()
    killed = make_job(spec, "killed")
    worker = killed.start()
    for victim in (0, -1):
        step = killed.step + random.randint(55, 120)
        killed.wait_for_step(step)
        launch = killed.reports[-1].launch
        os.kill(worker.ranks[victim], signal.SIGKILL)
        wait_for(lambda before=launch: killed.reports[-1].launch != before, "a new launch")
    assert worker.wait() == 0, worker.log
    assert_same_outcome(killed, straight)


@pytest.mark.parametrize("optimizer", STATES)
def test_whatever_the_optimizer_gathers_and_whatever_else_is_state(make_job, optimizer):
    changes = STATES[optimizer]
    spec = spec_of(optimizer)
    spec |= {
        key: {**spec.get(key, {}), **value} if key in ("training", "workers") else value
        for key, value in changes.items()
    }
    straight = make_job(spec, "straight")
    straight.run()
    killed = make_job(spec, "killed")
    worker = killed.start()
    killed.wait_for_step(random.randint(55, 250))
    launch = killed.reports[-1].launch
    os.kill(worker.ranks[-1], signal.SIGKILL)
    wait_for(lambda: killed.reports[-1].launch != launch, "a new launch")
    assert worker.wait() == 0, worker.log
    assert_same_outcome(killed, straight)
    assert killed.summary["step"] == straight.summary["step"]


def test_through_every_kind_of_loss_two_workers_end_with_the_same_bits(make_job):
    spec = spec_of("adamw", workers=2)
    straight = make_job(spec, "straight")
    straight.run()
    job = make_job(spec, "interrupted")
    host, other = job.start(0), job.start(1)

    def wait_for_progress():
        job.wait_for_step(job.step + random.randint(20, 55))

    wait_for_progress()
    other.kill(signal.SIGKILL)
    other.wait()
    other = job.start(1, attempt=2)
    wait_for_progress()
    os.kill(other.ranks[0], signal.SIGKILL)
    wait_for_progress()
    leaving, other = other, job.start(1, attempt=3)  # The replacement comes before the old one is told to go.
    leaving.kill(signal.SIGTERM)
    wait_for_progress()
    os.kill(host.ranks[0], signal.SIGKILL)
    assert (host.wait(), other.wait()) == (0, 0), host.log + other.log
    assert leaving.wait() != 0
    assert_same_outcome(job, straight)
