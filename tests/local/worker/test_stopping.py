"""SIGTERM means: agree on a step, save, and exit as Preempted; those who were not told wait for the replacement."""

import os
import signal
import subprocess
import sys
import time
from subprocess import PIPE

import pytest

from trainwright.api.exit_codes import ExitCode, FailureClass
from trainwright.api.worker import Termination

from .conftest import wait_for

pytestmark = pytest.mark.local


def spec_of(workers=1, epochs=40, **changes):
    return {
        "model": {"name": "cnn", "args": {"channels": [8], "hidden": [32]}},
        "dataset": {"builtin": {"name": "digits"}},
        "optimizer": {"name": "sgd", "learningRate": 0.02, "momentum": 0.9},
        "regularization": {"dropout": 0.1},
        "training": {"epochs": epochs, "globalBatchSize": 64, "deterministic": True},
        "workers": {"count": workers, "terminationGracePeriodSeconds": 10},
        **changes,
    }


def test_a_stopped_job_saves_and_goes_on_to_the_same_bits(make_job):
    straight = make_job(spec_of(), "straight")
    straight.run()
    stopped = make_job(spec_of(), "stopped")
    first = stopped.start()
    stopped.wait_for_step(100)
    first.kill(signal.SIGTERM)
    assert first.wait() == ExitCode.PREEMPTED
    assert first.termination.category == FailureClass.PREEMPTED
    assert "the state is saved" in first.termination.message
    saved = int(stopped.checkpoints[-1].name.removeprefix("step-"))
    assert saved >= 100
    assert stopped.start(attempt=2).wait() == 0
    assert stopped.reports[-1].resumed_from_step == saved
    assert stopped.reports[-1].attempt == 2
    assert stopped.weights == straight.weights


def test_a_worker_told_to_stop_leaves_and_the_other_waits_for_its_replacement(make_job):
    job = make_job(spec_of(workers=2, restart={"limit": 0}))
    host, other = job.start(0), job.start(1)
    job.wait_for_step(50)
    other.kill(signal.SIGTERM)
    assert other.wait() == ExitCode.PREEMPTED
    saved = int(job.checkpoints[-1].name.removeprefix("step-"))
    wait_for(lambda: not host.ranks, "worker 0 to wait without processes")
    replacement = job.start(1, attempt=2)
    assert (host.wait(), replacement.wait()) == (0, 0), host.log + replacement.log
    assert job.reports[-1].resumed_from_step == saved


def test_all_workers_told_to_stop_save_one_checkpoint_and_exit_preempted(make_job):
    job = make_job(spec_of(workers=2))
    workers = [job.start(1), job.start(0)]
    job.wait_for_step(50)
    for worker in workers:
        worker.kill(signal.SIGTERM)
    assert [worker.wait() for worker in workers] == [ExitCode.PREEMPTED] * 2, workers[0].log + workers[1].log
    assert job.checkpoints


def test_a_worker_told_to_stop_while_waiting_for_others_exits_at_once(make_job):
    spec = spec_of(workers=3)
    spec["training"]["globalBatchSize"] = 63
    job = make_job(spec)
    workers = [job.start(1), job.start(0)]
    for worker in workers:
        wait_for(lambda worker=worker: "joining" in worker.log, "the rendezvous")
        worker.kill(signal.SIGTERM)
        assert worker.wait(10) == ExitCode.PREEMPTED


def test_a_worker_told_to_stop_exits_in_time_although_its_peer_hangs(make_job):
    job = make_job(spec_of(workers=2))
    job.start(0)
    other = job.start(1)
    job.wait_for_step(20)
    hung = job.workers[0].ranks
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    other.kill(signal.SIGTERM)
    assert other.wait() == ExitCode.PREEMPTED
    assert time.monotonic() - began < 10
    for pid in hung:
        os.kill(pid, signal.SIGKILL)


def test_a_program_stopped_while_it_still_imports_says_so(make_job):
    job = make_job(spec_of())
    ending = job.folder / "termination"
    environment = {
        **os.environ,
        "TRAINWRIGHT_CONFIG": str(job.folder / "worker.json"),
        "TRAINWRIGHT_TERMINATION_LOG": str(ending),
    }
    program = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "trainwright_worker"], env=environment, stderr=PIPE
    )
    for line in program.stderr:
        if b"torch.version" in line:
            break
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=60)
    assert program.returncode == ExitCode.PREEMPTED
    assert Termination.model_validate_json(ending.read_text()).category == FailureClass.PREEMPTED


def test_checkpoints_by_the_clock_and_a_damaged_one_is_passed_over_and_told(make_job):
    job = make_job(spec_of(epochs=4000, checkpoint={"everySeconds": 1}))
    first = job.start()
    wait_for(lambda: len(job.checkpoints) >= 2, "two checkpoints")
    first.kill(signal.SIGTERM)
    assert first.wait() == ExitCode.PREEMPTED
    *_, older, newest = job.checkpoints
    (newest / "model.safetensors").write_bytes(b"damaged")
    second = job.start(attempt=2)
    wait_for(lambda: job.reports[-1].resumed_from_step, "the second attempt")
    assert job.reports[-1].resumed_from_step == int(older.name.removeprefix("step-"))
    assert f"checkpoint {newest.name} skipped: model.safetensors has 7 bytes" in job.reports[-1].message
    assert f"checkpoint {newest.name} skipped" in second.log
