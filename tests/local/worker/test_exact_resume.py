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
}


def spec_of(optimizer, workers=1, processes=1):
    return {
        "model": {"name": "cnn", "args": {"channels": [8], "hidden": [32]}},
        "dataset": {"builtin": {"name": "digits"}},
        "optimizer": OPTIMIZERS[optimizer],
        "schedule": {"name": "cosine", "warmupSteps": 20},
        "regularization": {"dropout": 0.2, "l2": 0.0001},
        "training": {"epochs": 30, "globalBatchSize": 64, "deterministic": True, "seed": 7, "gradientClipping": 5.0},
        "evaluation": {"everySteps": 37},
        "checkpoint": {"everySteps": 53},
        "workers": {"count": workers, "processesPerWorker": processes},
    }


@pytest.mark.parametrize(("optimizer", "workers", "processes"), [("momentum", 1, 1), ("adam", 1, 2), ("adamw", 2, 1)])
def test_killed_at_a_random_step_ends_with_the_same_bits(make_job, optimizer, workers, processes):
    spec = spec_of(optimizer, workers, processes)
    straight = make_job(spec, "straight")
    straight.run()
    killed = make_job(spec, "killed")
    running = [killed.start(index) for index in range(workers)]
    for victim in (0, -1):
        step = killed.step + random.randint(60, 200)  # noqa: S311 - any step will do
        killed.wait_for_step(step)
        launch = killed.reports[-1].launch
        os.kill(running[victim].ranks[victim], signal.SIGKILL)
        wait_for(lambda before=launch: killed.reports[-1].launch != before, "a new launch")
    for worker in running:
        assert worker.wait() == 0, worker.log
    assert killed.reports[-1].resumed_from_step
    assert killed.weights == straight.weights
    assert killed.summary["history"] == straight.summary["history"]
    assert killed.summary["test"] == straight.summary["test"]
    assert killed.summary["best"] == straight.summary["best"]
