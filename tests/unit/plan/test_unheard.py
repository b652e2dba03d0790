"""Workers that run and never report: the image may not be ours, but a missing report alone proves nothing."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, SETTINGS, job, observed, pod, report, status_after

from trainwright.api.exit_codes import FailureClass
from trainwright.api.status import Phase
from trainwright.api.worker import WorkerPhase
from trainwright.plan import plan

LIMIT = timedelta(seconds=600)


def workers():
    return [pod(index, image="nginx:1.29", started_at=NOW) for index in range(2)]


def starting():
    """Return a job whose workers all run."""
    begun = replace(job(), status=status_after(plan(observed(job()))))
    return replace(begun, status=status_after(plan(observed(begun, *workers()))))


STARTING = starting()


def silence(seconds, **fields):
    fields = {"listening_since": NOW - timedelta(hours=1), **fields}
    return plan(observed(STARTING, *workers(), now=NOW + timedelta(seconds=seconds), **fields))


def test_an_image_that_never_reports_is_named_and_what_to_check():
    early = silence(119)
    assert (early.status, early.requeue_after) == (None, pytest.approx(1))
    status = silence(120).status
    assert (status.phase, status.reason) == (Phase.STARTING, "NoReport")
    assert status.message == (
        "2 of 2 workers run, but none has reported for more than 120 s: check that the image nginx:1.29 starts Trainwright's "
        "worker (kubectl logs digits-0-1); if it does, its pods cannot reach https://operator:8443"
    )


def test_it_fails_once_another_job_of_the_namespace_has_shown_that_reports_arrive():
    status = silence(600, namespace_heard_at=NOW + timedelta(seconds=30)).status
    assert (status.phase, status.attempt, status.oldest_attempt, status.restarts) == (Phase.RESTARTING, 2, 2, 1)
    assert status.failure.category == FailureClass.INTERNAL
    assert status.failure.message == (
        "no worker has reported 600 s after the start, while other jobs of the namespace have: the image nginx:1.29 does not "
        "seem to start Trainwright's worker"
    )
    assert "ENTRYPOINT" in status.failure.hint
    replaced = plan(observed(replace(STARTING, status=status), *workers(), now=NOW + LIMIT))
    assert [item.name for item in replaced.delete] == ["digits-0-1", "digits-1-1"]
    spent = STARTING.status.changed(restarts_without_progress=3)
    heard = {"listening_since": NOW, "namespace_heard_at": NOW}
    over = plan(observed(replace(STARTING, status=spent), *workers(), now=NOW + LIMIT, **heard)).status
    assert over.phase == Phase.FAILED
    assert "gave up after 3 restarts without progress" in over.message


HEARD = {"namespace_heard_at": NOW + timedelta(seconds=30)}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, True),  # no other job reports either
        ({"namespace_heard_at": NOW - timedelta(seconds=1)}, True),  # others did, before these workers ran
        ({**HEARD, "listening_since": NOW + timedelta(seconds=300)}, True),  # the operator has just begun to listen
        ({**HEARD, "listening_since": NOW + timedelta(seconds=500)}, False),
        ({**HEARD, "listening_since": None}, False),
        ({**HEARD, "settings": replace(SETTINGS, reports_url=None)}, False),  # nobody is to report
        ({**HEARD, "settings": replace(SETTINGS, pods_leave_files=True)}, False),  # processes of this machine
        ({**HEARD, "report": report(0, phase=WorkerPhase.PREPARING), "report_at": NOW}, False),  # it reads its data
        ({**HEARD, "waiting_reports": {1: (report(0, phase=WorkerPhase.RENDEZVOUS), NOW)}}, False),
    ],
)
def test_a_missing_report_alone_proves_nothing(fields, said):
    status = silence(601, **fields).status or STARTING.status
    assert (status.phase, status.attempt) == (Phase.STARTING, 1)
    assert (status.reason == "NoReport") == said


def test_an_image_that_has_ever_reported_is_a_worker():
    progress = STARTING.status.progress.changed(reported_at=NOW - timedelta(hours=1))
    again = replace(STARTING, status=STARTING.status.changed(progress=progress))
    assert plan(observed(again, *workers(), now=NOW + LIMIT, listening_since=NOW, **HEARD)).status is None
