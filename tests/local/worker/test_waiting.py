"""A worker that waits for others says so, before there is any rank that could report."""

import re

import pytest

from trainwright.api.worker import Absentee, WorkerPhase

from .conftest import wait_for

pytestmark = pytest.mark.local

SPEC = {
    "model": {"name": "mlp", "args": {"hidden": [8]}},
    "dataset": {"builtin": {"name": "iris"}},
    "training": {"steps": 20, "globalBatchSize": 8},
    "workers": {"count": 3},
}


def test_worker_0_says_who_is_missing_and_is_still_there_when_they_come(make_job):
    job = make_job(SPEC)
    workers = [job.start(0), job.start(2)]
    report = wait_for(lambda: job.reports and job.reports[-1], "a report")
    assert report.phase == WorkerPhase.RENDEZVOUS
    assert (report.waiting.joined, report.waiting.wanted) == (2, 3)
    assert report.waiting.missing == [Absentee(worker=1, attempt=0)]
    assert report.waiting.seconds >= 5
    workers.append(job.start(1))
    assert [worker.wait() for worker in workers] == [0, 0, 0], workers[0].log
    assert job.reports[-1].phase == WorkerPhase.FINISHED
    sequences = [report.sequence for report in job.reports]
    assert sequences == sorted(sequences)


@pytest.mark.parametrize(
    ("host", "words"),
    [("127.0.0.1", "it does not listen"), ("worker-0.invalid", r"its name is not known \(DNS: ")],
)
def test_another_worker_says_why_it_cannot_reach_worker_0(make_job, host, words):
    job = make_job(SPEC, env={"TRAINWRIGHT_RENDEZVOUS_HOST": host})
    job.start(1)
    report = wait_for(lambda: job.reports and job.reports[-1], "a report")
    assert report.phase == WorkerPhase.RENDEZVOUS
    assert report.waiting is None
    assert re.search(f"cannot reach worker 0 at {host}: {words}", report.message)
