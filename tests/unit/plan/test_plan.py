"""The decisions, as tables: what is seen, what is to be done, what is said."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import (
    NOW,
    SETTINGS,
    failed,
    job,
    kinds,
    names,
    observed,
    pod,
    report,
    running_job,
    spec,
    status_after,
    truth,
)

from trainwright.api.status import ConditionType, Phase
from trainwright.api.worker import WorkerPhase
from trainwright.plan import Plan, plan
from trainwright.plan.urgency import Urgency


def test_new_job_writes_its_first_attempt_before_it_creates_anything():
    first = plan(observed(job()))
    assert first.status.phase == Phase.PENDING
    assert (first.status.attempt, first.status.oldest_attempt) == (1, 1)
    assert truth(first.status, ConditionType.ACCEPTED) == "True"
    assert first.create == ()
    assert first.requeue_after == 0


def test_second_pass_creates_companions_then_pods():
    started = replace(job(), status=status_after(plan(observed(job()))))
    second = plan(observed(started))
    assert kinds(second) == ["ConfigMap", "Service", "NetworkPolicy", "Pod", "Pod"]
    assert names(second) == ["digits-0-1", "digits-1-1"]
    assert second.status is None


def test_pods_mount_what_is_told_when_they_are_created():
    started = replace(job(), status=status_after(plan(observed(job()))))

    def told(**settings):
        config, *_, last = plan(observed(started, settings=replace(SETTINGS, **settings))).create
        mounted = [volume["configMap"] for volume in last["spec"]["volumes"] if "configMap" in volume]
        assert mounted == [{"name": config["metadata"]["name"]}]
        return config["metadata"]["name"]

    assert told() == told()
    assert told(reports_ca="the CA after a new installation") != told()


@pytest.mark.parametrize(
    ("lost", "own", "images"),
    [(1, None, ["worker:1"]), (0, None, ["worker:2"] * 2), (1, "mine:7", ["mine:7"])],
    ids=["one is replaced", "all start again", "an image of the job's own"],
)
def test_workers_that_train_together_have_one_image(lost, own, images):
    before = running_job()
    workers = {"count": 2} | ({"image": own} if own else {})
    before = replace(before, spec=spec(workers=workers))
    pods = [replace(pod(index), image=own or "worker:1") for index in range(2)]
    pods[lost] = replace(failed(lost), image=pods[lost].image)
    upgraded = replace(SETTINGS, worker_image="worker:2")
    later = NOW + timedelta(seconds=60)
    restarted = replace(before, status=status_after(plan(observed(before, *pods, settings=upgraded))))
    if lost == 0:
        pods = []
    made = plan(observed(restarted, *pods, settings=upgraded, now=later)).create
    assert [child["spec"]["containers"][0]["image"] for child in made if child["kind"] == "Pod"] == images


def test_single_worker_needs_no_service():
    started = replace(job(workers=1), status=status_after(plan(observed(job(workers=1)))))
    assert kinds(plan(observed(started))) == ["ConfigMap", "NetworkPolicy", "Pod"]


@pytest.mark.parametrize(
    ("pods", "heard", "phase", "reason"),
    [
        ([pod(0, phase="Pending"), pod(1)], None, Phase.PENDING, "WorkersPending"),
        ([pod(0), pod(1)], None, Phase.STARTING, "Rendezvous"),
        ([pod(0), pod(1)], report(0, phase=WorkerPhase.PREPARING), Phase.STARTING, "Preparing"),
        ([pod(0), pod(1)], report(0), Phase.STARTING, "Preparing"),
        ([pod(0), pod(1)], report(50, resumed_from_step=50), Phase.STARTING, "Preparing"),
        ([pod(0), pod(1)], report(1), Phase.RUNNING, "Training"),
        ([pod(0), pod(1)], report(100, phase=WorkerPhase.PREDICTING), Phase.RUNNING, "Training"),
        ([pod(0), pod(1, phase="Succeeded")], report(100), Phase.RUNNING, "Training"),
    ],
)
def test_phase_follows_pods_and_reports(pods, heard, phase, reason):
    started = replace(job(), status=status_after(plan(observed(job()))))
    said = status_after(Plan(status=started.status), plan(observed(started, *pods, report=heard)))
    assert (said.phase, said.reason) == (phase, reason)
    assert truth(said, ConditionType.RUNNING) == str(phase == Phase.RUNNING)


def test_running_survives_an_operator_that_has_heard_nothing_yet():
    running = running_job()
    assert plan(observed(running, pod(0), pod(1))).status is None


def test_unschedulable_is_said_with_the_schedulers_words():
    started = replace(job(), status=status_after(plan(observed(job()))))
    stuck = pod(
        1, phase="Pending", waiting=("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    )
    decision = plan(observed(started, pod(0), stuck))
    assert decision.status.reason == "Unschedulable"
    assert decision.status.message == (
        "1 of 2 workers unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    )
    assert decision.urgency >= Urgency.NEWS


def test_creation_that_the_cluster_refuses_is_said():
    started = replace(job(), status=status_after(plan(observed(job()))))
    decision = plan(observed(started, rejection="exceeded quota: pods=10"))
    assert decision.status.reason == "CreationRefused"
    assert "exceeded quota" in decision.status.message
    assert names(decision) == ["digits-0-1", "digits-1-1"]


def test_silence_is_called_stale():
    running = running_job()
    late = NOW + timedelta(seconds=61)
    status = plan(observed(running, pod(0), pod(1), now=late)).status
    assert status.progress.stale
    assert status.reason == "ReportsOverdue"
    assert "no report for 61 s" in status.message
