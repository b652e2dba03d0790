"""What a failure costs, and how it is told."""

import os
import re
import signal
import time

import pytest

from trainwright.api.exit_codes import ExitCode, FailureClass

from .conftest import wait_for

pytestmark = pytest.mark.local

CNN = {"name": "cnn", "args": {"channels": [8], "hidden": [32]}}


def spec_of(workers=1, epochs=40, **changes):
    return {
        "model": CNN,
        "dataset": {"builtin": {"name": "digits"}},
        "training": {"epochs": epochs, "globalBatchSize": 64},
        "checkpoint": {"everySteps": 20},
        "workers": {"count": workers},
        **changes,
    }


def test_a_lost_worker_is_replaced_and_the_others_keep_their_processes_parent(make_job):
    job = make_job(spec_of(workers=2, restart={"limit": 0}))
    host, lost = job.start(0), job.start(1)
    job.wait_for_step(60)
    lost.kill(signal.SIGKILL)
    assert lost.wait() == -signal.SIGKILL
    wait_for(lambda: not host.ranks, "worker 0 to notice")
    assert not host.ended
    replacement = job.start(1, attempt=2)
    assert (host.wait(), replacement.wait()) == (0, 0), host.log + replacement.log
    assert job.reports[-1].resumed_from_step >= 40
    assert job.reports[-1].step == job.reports[-1].total_steps


def test_without_worker_0_the_others_exit_promptly(make_job):
    job = make_job(spec_of(workers=2, epochs=400))
    host, other = job.start(0), job.start(1)
    job.wait_for_step(5)
    host.kill(signal.SIGKILL)
    assert other.wait(30) == ExitCode.INFRASTRUCTURE
    assert "worker 0 is gone" in other.termination.message


def test_a_crashed_process_is_restarted_in_place_until_the_limit(make_job):
    job = make_job(spec_of(epochs=400, restart={"limit": 1}))
    worker = job.start()
    for launches in (1, 2):
        wait_for(lambda n=launches: len({r.launch for r in job.reports if r.step > 0}) == n, f"launch {launches}")
        before = time.monotonic()
        os.kill(worker.ranks[0], signal.SIGKILL)
        if launches == 1:
            wait_for(lambda: len({r.launch for r in job.reports if r.step > 0}) == 2, "the restart")
            print(f"from SIGKILL to a report of the next launch: {time.monotonic() - before:.2f} s")  # noqa: T201
    assert worker.wait() == ExitCode.INFRASTRUCTURE
    assert "SIGKILL" in worker.termination.message
    assert worker.termination.rank == 0


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"dataset": {"csv": {"path": "none.csv", "target": "y"}}}, ExitCode.DATA, "spec.dataset.csv.path: none.csv"),
        (
            {
                "model": {
                    "layers": [
                        {"conv2d": {"channels": 4, "kernelSize": 3}},
                        {"maxPool2d": {}},
                        {"dense": {"units": 10, "inputs": 3136}},
                    ]
                }
            },
            ExitCode.USER_ERROR,
            "spec.model.layers[2].dense.inputs: 3136, but the layers before it produce 36",
        ),
        (
            {"training": {"epochs": 1, "globalBatchSize": 4096}},
            ExitCode.USER_ERROR,
            "spec.training.globalBatchSize: 4096, but the training split has only 1437",
        ),
        (
            {
                "dataset": {"builtin": {"name": "diabetes"}},
                "task": "regression",
                "model": {"name": "linear"},
                "optimizer": {"name": "sgd", "learningRate": 1000},
                "training": {"epochs": 50},
            },
            ExitCode.NON_FINITE,
            "not finite",
        ),
    ],
    ids=["no file", "wrong inputs", "batch too large", "diverges"],
)
def test_a_mistake_ends_the_worker_at_once_and_is_named(make_job, changes, code, words):
    job = make_job(spec_of(**changes))
    worker = job.start()
    assert worker.wait() == code, worker.log
    ending = worker.termination
    assert words in ending.message
    assert ending.exit_code == code
    assert worker.log.count("training process") <= 1
    if code == ExitCode.NON_FINITE:
        assert "learningRate" in ending.hint
        assert ending.category == FailureClass.NON_FINITE


def test_a_network_interface_that_does_not_exist_is_named_before_any_process_starts(make_job):
    job = make_job(spec_of(workers=2), env={"GLOO_SOCKET_IFNAME": "ib7"})
    worker = job.start(1)
    assert worker.wait() == ExitCode.USER_ERROR, worker.log
    ending = worker.termination
    assert ending.message.startswith("spec.workers.env: GLOO_SOCKET_IFNAME is ib7, but this worker has no such network")
    assert re.match(r"name one that it has \(.*\blo\b.*\), or remove GLOO_SOCKET_IFNAME", ending.hint)
    assert "joining" not in worker.log


def test_a_mistake_ends_both_workers_with_its_own_code(make_job):
    job = make_job(spec_of(workers=2, model={"layers": [{"dense": {"units": 3}}]}))
    workers = [job.start(0), job.start(1)]
    assert [worker.wait() for worker in workers] == [ExitCode.USER_ERROR] * 2, workers[0].log + workers[1].log
    assert "has 3 outputs, but the data has 10 classes" in workers[1].termination.message
    first = {worker.termination.worker for worker in workers} - {None}
    assert len(first) == 1, "both say whose failure came first, unless the store went with worker 0"
