"""`trainwright run` from end to end: real controller, real plan, real workers, no cluster."""

import copy
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.local

CNN = {
    "apiVersion": "trainwright.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "digits"},
    "spec": {
        "model": {"name": "cnn", "args": {"channels": [16, 32], "hidden": [64]}},
        "dataset": {"builtin": {"name": "digits"}},
        "optimizer": {"name": "adam", "learningRate": 0.003},
        "training": {"epochs": 8, "globalBatchSize": 64},
        "prediction": {"split": "test"},
        # Tests share their cores with other work; threads that wait for each other then wait for all of it.
        "workers": {"env": [{"name": "OMP_NUM_THREADS", "value": "1"}]},
    },
}
PATIENCE = 240


def a_job(**spec):
    job = copy.deepcopy(CNN)
    job["spec"].update(spec)
    return job


def a_long_job(workers=1):
    """A job that lasts long enough to be hit, and saves often enough to lose little."""
    return a_job(
        training={"steps": 800, "globalBatchSize": 64},
        checkpoint={"everySteps": 20},
        evaluation={"everySteps": 400},
        workers={**CNN["spec"]["workers"], "count": workers, "terminationGracePeriodSeconds": 30},
    )


class Run:
    """A running `trainwright run`.

    Args:
        folder: Where the manifest and the runs lie.
        arguments: Options besides the output format.
    """

    def __init__(self, folder, *arguments):
        self.folder = folder
        command = [sys.executable, "-c", "from trainwright.cli import main; main()", "run", "-o", "yaml", *arguments]
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def end(self):
        """Wait for the end and return (exit code, the job as printed, what was said)."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, yaml.safe_load(out), err

    @property
    def saved(self):
        """The status in the run's folder."""
        path = self.folder / "runs" / "digits-1" / "job.yaml"
        return yaml.safe_load(path.read_text()).get("status", {}) if path.exists() else {}

    def reaches(self, step):
        """Wait until the status says that training has come so far."""
        wait_until(lambda: self.saved.get("progress", {}).get("step", 0) >= step, self.process)

    def pid(self, pod):
        return int((self.folder / "runs" / "digits-1" / "pods" / pod / "pid").read_text())


def wait_until(condition, process=None):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert process is None or process.poll() is None, f"ended too early: {process.communicate()}"
        time.sleep(0.02)


def processes_of(folder):
    """Return the processes, other than the command line itself, that work in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder / "runs"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def run(tmp_path):
    """Return a function that writes a manifest and runs it."""
    runs = []

    def start(job, *arguments):
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
        runs.append(Run(tmp_path, "job.yaml", *arguments))
        return runs[-1]

    yield start
    for each in runs:
        each.process.kill()
        each.process.communicate()
    wait_until(lambda: not processes_of(tmp_path))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_job_trains_to_its_end(run, tmp_path, workers):
    code, job, said = run(CNN, "--workers", workers, "--logs").end()
    status = job["status"]
    assert (code, status["phase"]) == (0, "Succeeded"), said
    assert status["metrics"]["evaluation"]["split"] == "test"
    assert status["metrics"]["evaluation"]["metrics"]["accuracy"] > 0.9
    assert status["progress"]["percent"] == 100
    assert status["restarts"] == 0
    assert Path(status["results"]["weights"]).is_file()
    assert len(Path(status["results"]["predictions"]).read_text().splitlines()) > 100
    assert all(f"worker {index} │ " in said for index in range(int(workers)))
    assert not processes_of(tmp_path)


def test_a_users_error_is_told_and_not_repeated(run):
    layers = [{"dense": {"units": 32, "inputs": 65}}, {"dense": {"units": 10}}]
    code, job, said = run(a_job(model={"layers": layers})).end()
    failure = job["status"]["failure"]
    assert (code, job["status"]["phase"]) == (64, "Failed")
    assert (failure["category"], failure["exitCode"], failure["worker"]) == ("UserError", 64, 0)
    assert "65" in failure["message"]
    assert failure["message"].removeprefix("worker 0: ") in " ".join(said.split())
    assert job["status"]["restarts"] == 0


def test_a_killed_process_is_replaced_in_its_pod(run):
    running = run(a_long_job(workers=2))
    running.reaches(30)
    (rank,) = [pid for pid in children_of(running.pid("digits-1-1")) if "tracker" not in command_of(pid)]
    os.kill(rank, signal.SIGKILL)
    code, job, said = running.end()
    assert (code, job["status"]["phase"]) == (0, "Succeeded"), said
    assert job["status"]["attempt"] == 1
    assert job["status"]["progress"]["resumedFromStep"] >= 20
    assert job["status"]["restarts"] == 1


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()


@pytest.mark.parametrize("worker", [0, 1])
def test_a_killed_worker_is_replaced(run, worker):
    running = run(a_long_job(workers=2))
    running.reaches(30)
    os.kill(running.pid(f"digits-{worker}-1"), signal.SIGKILL)
    code, job, said = running.end()
    assert (code, job["status"]["phase"]) == (0, "Succeeded"), said
    assert job["status"]["attempt"] == 2
    assert job["status"]["restarts"] == 1
    assert job["status"]["progress"]["resumedFromStep"] >= 20
    assert job["status"]["failure"]["worker"] == worker


def test_ctrl_c_saves_and_resume_goes_on(run, tmp_path):
    running = run(a_long_job(workers=2))
    running.reaches(30)
    running.process.send_signal(signal.SIGINT)
    code, job, said = running.end()
    assert (code, job["status"]["phase"]) == (130, "Suspended"), said
    assert "resume with: trainwright run job.yaml --resume runs/digits-1" in said
    assert not processes_of(tmp_path)
    saved_step = job["status"]["checkpoints"][-1]["step"]
    assert saved_step >= job["status"]["progress"]["step"] >= 30

    left = (tmp_path / "runs" / "digits-1" / "job.yaml").read_text()
    other = {**a_long_job(workers=2)["spec"], "model": {"name": "mlp"}}
    code, refused, said = run(a_job(**other), "--resume", "runs/digits-1").end()
    assert (code, refused["status"]["phase"]) == (64, "Failed"), said
    assert "the model differs from that of the checkpoint" in said
    assert (tmp_path / "runs" / "digits-1" / "job.yaml").read_text() == left

    code, resumed, said = run(a_long_job(workers=2), "--resume", "runs/digits-1").end()
    assert (code, resumed["status"]["phase"]) == (0, "Succeeded"), said
    assert resumed["metadata"]["uid"] == job["metadata"]["uid"]
    assert resumed["status"]["progress"]["resumedFromStep"] == saved_step
    assert resumed["status"]["restarts"] == 0


def test_a_terminated_run_ends_as_such_and_says_that_nothing_was_saved(run):
    running = run(a_long_job())
    wait_until(lambda: running.saved.get("phase") == "Starting", running.process)
    running.process.send_signal(signal.SIGTERM)
    code, job, said = running.end()
    assert (code, job["status"]["phase"]) == (143, "Suspended"), said
    assert "nothing is saved yet" in said
    assert "start from scratch with: trainwright run job.yaml --resume runs/digits-1" in said
    assert "Ctrl-C" not in said
    assert "spec.suspend" not in said


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_whose_folder_has_no_room_ends_and_can_be_resumed(run, tmp_path, interrupted):
    running = run(a_long_job())
    running.reaches(30)
    _, most = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (512, most))
    if interrupted:
        running.process.send_signal(signal.SIGINT)
    code, _, said = running.end()
    assert code == 69, said
    assert "cannot write to runs/digits-1: File too large\n" in said
    assert "resume with: trainwright run job.yaml --resume runs/digits-1" in said
    assert "Error" not in said
    assert not processes_of(tmp_path)
    code, resumed, said = run(a_long_job(), "--resume", "runs/digits-1").end()
    assert (code, resumed["status"]["phase"]) == (0, "Succeeded"), said
    assert resumed["status"]["progress"]["resumedFromStep"] >= 20


def test_a_killed_command_line_leaves_no_process_and_can_be_resumed(run, tmp_path):
    running = run(a_long_job())
    running.reaches(30)
    assert processes_of(tmp_path)
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not processes_of(tmp_path))
    code, resumed, said = run(a_long_job(), "--resume", "runs/digits-1").end()
    assert (code, resumed["status"]["phase"]) == (0, "Succeeded"), said
    assert resumed["status"]["progress"]["resumedFromStep"] >= 20
    assert resumed["status"]["restarts"] == 0
    assert "failure" not in resumed["status"]


def test_a_stopped_process_is_told_as_a_hang_and_started_again_in_its_pod(run):
    job = a_long_job(workers=2)
    job["spec"]["health"] = {"hang": {"minSeconds": 5}}
    running = run(job)
    running.reaches(100)
    (rank,) = children_of(running.pid("digits-1-1"))
    os.kill(rank, signal.SIGSTOP)
    code, job, said = running.end()
    status = job["status"]
    assert (code, status["phase"], status["attempt"]) == (0, "Succeeded", 1), said
    assert (status["restarts"], status["restartsWithoutProgress"]) == (1, 1)
    failure = status["failure"]
    assert (failure["category"], failure["exitCode"], failure["worker"], failure["rank"]) == ("Hang", 72, 1, 1)
    assert "the process is stopped (SIGSTOP)" in failure["message"]
    assert status["goodput"]["stalled"] >= 1
    assert status["progress"]["resumedFromStep"] >= 80


def test_a_worker_that_is_frozen_as_a_whole_is_replaced_alone(run):
    job = a_long_job(workers=2)
    job["spec"]["health"] = {"hang": {"minSeconds": 5}}
    running = run(job)
    running.reaches(100)
    frozen, other = running.pid("digits-1-1"), running.pid("digits-0-1")
    for pid in (frozen, *children_of(frozen)):
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: "waiting for worker 1" in running.saved.get("message", ""), running.process)
    assert running.saved["message"].startswith("rendezvous 1 of 2: waiting for worker 1")
    assert (running.saved["phase"], running.saved["reason"]) == ("Starting", "Rendezvous")
    code, job, said = running.end()
    status = job["status"]
    assert (code, status["phase"], status["attempt"]) == (0, "Succeeded", 2), said
    assert (status["failure"]["category"], status["failure"]["worker"]) == ("Hang", 1)
    assert "it has not come to the rendezvous" in status["failure"]["message"]
    assert running.pid("digits-0-1") == other
