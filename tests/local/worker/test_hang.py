"""A process that takes no step any more is found, told of and started again; one that is merely slow is left alone."""

import io
import os
import re
import signal
import threading
import time

import numpy as np
import pytest
from corpora import object_store
from moto.server import DomainDispatcherApplication
from PIL import Image

from trainwright.api.exit_codes import ExitCode, FailureClass
from trainwright_worker.agent.rendezvous import NumberedRendezvous

from .conftest import wait_for

pytestmark = pytest.mark.local

MIN_SECONDS = 5
WATCHFUL = {"hang": {"minSeconds": MIN_SECONDS}}


def spec_of(workers=2, epochs=15, **changes):
    return {
        "model": {"name": "cnn", "args": {"channels": [8], "hidden": [32]}},
        "dataset": {"builtin": {"name": "digits"}},
        "training": {"epochs": epochs, "globalBatchSize": 64, "deterministic": True, "seed": 7},
        "checkpoint": {"everySteps": 53},
        "workers": {"count": workers},
        "health": WATCHFUL,
        **changes,
    }


def relaunches(job):
    return [report.relaunched for report in job.reports if report.relaunched is not None]


def test_a_stopped_process_is_found_and_the_job_ends_as_if_undisturbed(make_job):
    straight = make_job(spec_of(), "straight")
    straight.run()
    job = make_job(spec_of(), "stopped")
    first, second = job.start(0), job.start(1)
    job.wait_for_step(60)
    os.kill(second.ranks[0], signal.SIGSTOP)
    wait_for(lambda: relaunches(job), "the restart")
    assert (first.wait(), second.wait()) == (0, 0), first.log + second.log
    assert job.weights == straight.weights
    cause = relaunches(job)[0]
    assert (cause.category, cause.exit_code, cause.rank) == (FailureClass.HANG, ExitCode.HANG, 1)
    assert re.match(r"rank 1 \(worker 1\) hangs: no step for [3-6] s after step \d+; ", cause.message)
    assert "the process is stopped (SIGSTOP)" in cause.message
    assert "its stacks:" in first.log
    assert "loop.py" in first.log
    assert "[rank 1] has not moved for" in second.log
    assert job.reports[-1].seconds.stalled == 0  # of this launch; the one before stood still
    before = [report for report in job.reports if report.launch != job.reports[-1].launch]
    assert before[-1].seconds.stalled > MIN_SECONDS / 3


def test_a_process_that_is_stopped_while_it_prepares_is_found_too(make_job):
    job = make_job(spec_of())
    first, second = job.start(0), job.start(1)
    rank = wait_for(lambda: second.ranks, "the process")[0]
    os.kill(rank, signal.SIGSTOP)
    wait_for(lambda: relaunches(job), "the restart")
    assert (first.wait(), second.wait()) == (0, 0), first.log + second.log
    assert relaunches(job)[0].rank == 1


def test_processes_that_do_not_connect_to_each_other_are_a_hang(make_job):
    job = make_job(spec_of())
    # An agent whose processes stop short of the others: it joins and lives, and starts none.
    left = threading.Event()
    stand_in = NumberedRendezvous(job.config, 1, 1, "127.0.0.1", left.is_set)
    first = job.start(0)
    stand_in.next_rendezvous()
    wait_for(stand_in.num_nodes_waiting, "the next round")  # It beats with every look.
    left.set()
    found = re.search(
        r"no sign of life for (\d+) s before its first step on rank 0, and worker 1 does not answer", first.log
    )
    assert found, first.log
    assert 4 * MIN_SECONDS <= int(found[1]) < 6 * MIN_SECONDS
    assert "its stacks:" in first.log
    assert "init_process_group" in first.log
    second = job.start(1, attempt=2)
    assert (first.wait(), second.wait()) == (0, 0), first.log + second.log
    assert relaunches(job)[0].category == FailureClass.HANG


def test_a_process_that_is_slow_is_a_straggler_and_not_hung(make_job):
    job = make_job(spec_of(training={"steps": 1_000_000, "globalBatchSize": 256}))
    workers = [job.start(0), job.start(1)]
    job.wait_for_step(20)
    slowed, over = workers[1].ranks[0], threading.Event()

    def hold_back():
        while not over.wait(0.005):
            os.kill(slowed, signal.SIGSTOP)
            over.wait(0.02)
            os.kill(slowed, signal.SIGCONT)

    brake = threading.Thread(target=hold_back)
    brake.start()
    try:
        # Other work on this machine may hold back a rank as well, but not for long, nor as much.
        wait_for(lambda: [(s.rank, s.factor > 2) for s in job.reports[-1].stragglers] == [(1, True)], "the straggler")
    finally:
        over.set()
        brake.join()
    assert not relaunches(job)


# -- data that does not come: what a network volume does when its server is gone ---------------------------------------


def picture(value):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def images_of(job, count=24):
    """Write a folder of images, and return the path of one of them."""
    folder = job.folder / "data" / "images" / "train"
    for label in range(2):
        (folder / str(label)).mkdir(parents=True)
        for number in range(count):
            (folder / str(label) / f"{number}.png").write_bytes(picture(100 * label + number))
    return folder / "0" / "0.png"


def clog(path):
    """Put a pipe in the place of a file: whoever reads it waits for ever."""
    pipe = path.with_suffix(".pipe")
    os.mkfifo(pipe)
    pipe.replace(path)


def test_a_process_that_waits_for_its_data_for_ever_fails_as_the_job_says(make_job):
    spec = spec_of(
        dataset={"imageFolder": {"path": "images/train", "size": 8}, "split": {"validation": 0.1}},
        training={"steps": 100_000, "globalBatchSize": 16},
        evaluation={"everySteps": 100_000},
        restart={"onFailure": {"Hang": "fail"}},
    )
    job = make_job(spec)
    image = images_of(job)
    workers = [job.start(0), job.start(1)]
    job.wait_for_step(50)
    clog(image)
    ended = wait_for(lambda: next((worker for worker in workers if worker.ended), None), "a worker to give up")
    assert ended.wait() == ExitCode.HANG, ended.log
    ending = ended.termination
    assert ending.category == FailureClass.HANG
    assert f"rank {workers.index(ended)} " in ending.message
    assert "it stands in read_ahead" in ending.message
    assert "loader.py" in ending.traceback
    assert "minSeconds" in ending.hint
    assert all("its stacks:" in worker.log for worker in workers)
    assert "pictures.py" in ended.log


# -- what merely takes its time ----------------------------------------------------------------------------------------


class SlowStore:
    """An S3 API that lets the first request of a kind wait."""

    def __init__(self, store, monkeypatch):
        self.files, self.env = store.files, store.env
        self.waited = []
        self._slow = {}
        answer = DomainDispatcherApplication.__call__

        def answer_late(application, environ, start_response):
            request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
            for words in [words for words in self._slow if all(word in request for word in words)]:
                seconds = self._slow.pop(words)
                time.sleep(seconds)
                self.waited.append(words)
            return answer(application, environ, start_response)

        monkeypatch.setattr(DomainDispatcherApplication, "__call__", answer_late)

    def delay(self, *words, seconds):
        """Let the next request that contains all of these words wait."""
        self._slow[words] = seconds


@pytest.fixture
def slow_store(monkeypatch):
    with object_store("slow") as store:
        yield SlowStore(store, monkeypatch)


def test_slow_evaluations_and_slow_checkpoints_are_no_hangs(make_job, slow_store):
    for split in ("train", "val"):
        for number in range(32):
            name = f"slow/images/{split}/{number % 2}/{number}.png"
            slow_store.files.pipe_file(name, picture(100 * (number % 2) + number))
    spec = spec_of(
        dataset={"imageFolder": {"path": "s3://slow/images", "size": 8}},
        training={"steps": 120, "globalBatchSize": 16},
        evaluation={"everySteps": 50},
        checkpoint={"everySteps": 40, "uri": "s3://slow/models"},
    )
    job = make_job(spec, env=slow_store.env)
    workers = [job.start(0), job.start(1)]
    job.wait_for_step(1)
    slow_store.delay("GET", "/val/", seconds=1.6 * MIN_SECONDS)
    # The second checkpoint waits for the first to be written.
    slow_store.delay("PUT", "/step-", seconds=1.6 * MIN_SECONDS)
    assert [worker.wait() for worker in workers] == [0, 0], workers[0].log
    assert len(slow_store.waited) == 2
    assert not relaunches(job)
    assert len({report.launch for report in job.reports}) == 1
    assert all("has not moved" not in worker.log for worker in workers)
