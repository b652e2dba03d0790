"""Workers that wait for each other, workers that hang as a whole, and processes that were started again in their pods."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from situations import NOW, SETTINGS, failed, job, observed, pod, report, running_job, status_after

from trainwright.api.exit_codes import ExitCode, FailureClass
from trainwright.api.figures import Straggler
from trainwright.api.status import LaunchSeconds, Phase
from trainwright.api.worker import Absentee, Cause, RankHeartbeat, Waiting, WorkerPhase, WorkerReport
from trainwright.plan import plan
from trainwright.plan.observe import read_pod


def later(seconds):
    return NOW + timedelta(seconds=seconds)


def waits(*missing, seconds=0.0, wanted=2, message="", attempt=1, sequence=20):
    """Return what a worker says while it waits: for these, each as (index, attempt)."""
    absentees = [Absentee(worker=index, attempt=came) for index, came in missing]
    waiting = Waiting(joined=wanted - len(missing), wanted=wanted, missing=absentees, seconds=seconds)
    return WorkerReport(
        uid="11112222-3333-4444-5555-666677778888",
        attempt=attempt,
        launch="rendezvous",
        sequence=sequence,
        phase=WorkerPhase.RENDEZVOUS,
        message=message,
        waiting=waiting if missing else None,
    )


def cannot_reach():
    return waits(message="cannot reach worker 0 at worker-0.x: its name is not known (DNS: Name or service not known)")


def started_pod(index, attempt=1, age=0, **fields):
    """Return a pod whose container has run since so many seconds before NOW."""
    return pod(index, attempt, started_at=NOW - timedelta(seconds=age), **fields)


def decide(before, *pods, **fields):
    decision = plan(observed(before, *pods, **fields))
    return replace(before, status=decision.status or before.status), decision


# -- what is said ------------------------------------------------------------------------------------------------------


def test_the_message_says_how_far_the_rendezvous_is_and_who_is_missing():
    told, _ = decide(running_job(workers=4), *map(pod, range(4)), report=waits((2, 1), wanted=4))
    assert told.status.phase == Phase.STARTING
    assert told.status.reason == "Rendezvous"
    assert told.status.message == "rendezvous 3 of 4: waiting for worker 2 on node node-2"
    assert told.status.progress.step == 10, "the steps done still stand"
    many = waits(*((index, 0) for index in range(1, 9)), wanted=9)
    told, _ = decide(running_job(workers=9), *map(pod, range(9)), report=many)
    assert (
        "waiting for worker 1 on node node-1, worker 2 on node node-2, worker 3 on node node-3 and 5 more"
        in told.status.message
    )


def test_a_worker_that_has_ended_is_needed_again_if_worker_0_fails_after_it():
    """Worker 0 may fail on its way out; its agent then starts it again, and it would wait for ever."""
    over = pod(1, phase="Succeeded", exit_code=0, finished_at=NOW)
    running = running_job()
    soon, decision = decide(running, pod(0), over, report=waits((1, 1), seconds=30), now=later(35))
    assert (decision.create, soon.status.attempt) == ((), 1), "it may just be on its way"
    needed, _ = decide(soon, pod(0), over, report=waits((1, 1), seconds=60, sequence=21), now=later(65))
    failure = needed.status.failure
    assert (failure.category, needed.status.restarts) == (FailureClass.INFRASTRUCTURE, 1)
    assert failure.message == "worker 1 on node node-1 has ended, but worker 0 had to start again and waits for it"
    _, decision = decide(needed, pod(0), over, now=later(65))
    assert [manifest["metadata"]["name"] for manifest in decision.create if manifest["kind"] == "Pod"] == ["digits-1-2"]


def test_another_worker_says_why_it_cannot_come():
    starting = replace(job(), status=status_after(plan(observed(job()))))
    words = {1: (cannot_reach(), NOW)}
    told, _ = decide(starting, pod(0), pod(1), waiting_reports=words)
    assert told.status.message.startswith(
        "2 of 2 workers run; waiting for them to meet and report; worker 1 cannot reach"
    )
    assert told.status.message.endswith("(DNS: Name or service not known)")
    told, _ = decide(starting, pod(0), pod(1), report=waits((1, 0)), waiting_reports=words)
    assert told.status.message.startswith(
        "rendezvous 1 of 2: waiting for worker 1 on node node-1; worker 1 cannot reach"
    )
    told, _ = decide(starting, pod(0), pod(1), waiting_reports={1: (cannot_reach(), NOW - timedelta(minutes=5))})
    assert "cannot reach" not in told.status.message, "that was long ago"


def test_what_a_worker_said_before_it_was_replaced_or_came_is_not_quoted():
    restarting = running_job().status.changed(phase=Phase.RESTARTING, attempt=2, oldest_attempt=2)
    again = replace(job(), status=restarting.changed(progress=restarting.progress.changed(ended_launch="a")))
    pods = (pod(0, attempt=2), pod(1, attempt=2))
    told, _ = decide(again, *pods, waiting_reports={1: (cannot_reach(), NOW)})
    assert told.status.message == "2 of 2 workers run; waiting for them to meet and report"
    own = cannot_reach().changed(attempt=2)
    told, _ = decide(again, *pods, waiting_reports={1: (own, NOW)})
    assert told.status.message.endswith(f"; worker 1 {own.message}")

    starting = replace(job(workers=3), status=status_after(plan(observed(job(workers=3)))))
    came = waits((2, 0), wanted=3)
    told, _ = decide(starting, *map(pod, range(3)), report=came, waiting_reports={1: (cannot_reach(), NOW)})
    assert told.status.message == "rendezvous 2 of 3: waiting for worker 2 on node node-2"


def test_stragglers_and_standing_still_are_in_the_message():
    slow = [Straggler(rank=1, factor=2.345)]
    beats = [RankHeartbeat(rank=rank, step=11, seconds_ago=12.0 + rank) for rank in range(2)]
    told, _ = decide(running_job(), pod(0), pod(1), report=report(11, stragglers=slow, heartbeats=beats))
    assert told.status.message.endswith(
        "no step for 12 s; rank 1 (worker 1 on node node-1) takes 2.35 times as long for its work as most"
    ), told.status.message
    assert told.status.metrics.stragglers[0].node == "node-1"
    evaluating = report(11, heartbeats=beats, phase=WorkerPhase.EVALUATING)
    assert "no step" not in decide(running_job(), pod(0), pod(1), report=evaluating)[0].status.message


# -- started again inside their pods -----------------------------------------------------------------------------------

HANG = Cause(
    exit_code=ExitCode.HANG,
    category=FailureClass.HANG,
    message="rank 1 (worker 1) hangs: no step for 15 s after step 12; the process is stopped (SIGSTOP)",
    hint="h",
    worker=1,
    rank=1,
    traceback="f (x.py:1)",
)


def test_a_hang_that_the_workers_ended_by_themselves_is_told():
    before = running_job(12)
    told, decision = decide(before, pod(0), pod(1), report=report(8, launch="b", resumed_from_step=5, relaunched=HANG))
    status = told.status
    assert (status.restarts, status.restarts_without_progress, status.attempt) == (1, 1, 1)
    assert status.phase == Phase.RUNNING
    failure = status.failure
    assert (failure.category, failure.exit_code) == (FailureClass.HANG, ExitCode.HANG)
    assert (failure.worker, failure.rank, failure.node, failure.pod) == (1, 1, "node-1", "digits-1-1")
    assert status.progress.replayed_steps == 7
    (event,) = decision.events
    assert (event.reason, event.warning) == ("Relaunched", True)
    assert event.message.startswith(HANG.message)
    assert not decision.delete
    again, decision = decide(told, pod(0), pod(1), report=report(9, launch="b", resumed_from_step=5, relaunched=HANG))
    assert again.status.restarts == 1
    assert not decision.events


def test_the_end_is_told_though_processes_were_started_again_since_the_last_look():
    said = report(100, launch="b", resumed_from_step=5, relaunched=HANG)
    done = pod(0, phase="Succeeded", exit_code=0, reason="Completed", finished_at=NOW)
    over, decision = decide(running_job(12), done, pod(1), report=said)
    assert (over.status.phase, over.status.restarts) == (Phase.SUCCEEDED, 1)
    assert [event.reason for event in decision.events] == ["Succeeded"]


def test_what_a_hang_takes_is_charged_as_stalled():
    def after(seconds, before, step, launch, **fields):
        spent = fields.pop("spent", None)
        heard = report(step, launch=launch, seconds=spent, **fields)
        status = plan(observed(before, pod(0), pod(1), now=later(seconds), report=heard)).status
        return replace(before, status=status or before.status)

    def spent(training, stalled=0.0):
        return LaunchSeconds(training=training, stalled=stalled)

    trained = after(10, running_job(1), 10, "a", spent=spent(10.0))
    # Rank 0 told of the stall while it lasted.
    told = after(30, trained, 10, "a", spent=spent(15.0, 15.0))
    assert told.status.goodput.stalled == 15
    again = after(33, told, 8, "b", resumed_from_step=5, relaunched=HANG, spent=spent(0.0))
    assert (again.status.goodput.stalled, again.status.goodput.restarting) == (15, 3)
    # Rank 0 was stopped itself, and told nothing.
    again = after(33, trained, 8, "b", resumed_from_step=5, relaunched=HANG, spent=spent(0.0))
    assert (again.status.goodput.stalled, again.status.goodput.restarting) == (23, 0)


def test_a_preemption_in_place_counts_against_no_limit():
    stopped = HANG.model_copy(update={"category": FailureClass.PREEMPTED, "exit_code": ExitCode.PREEMPTED})
    told, _ = decide(running_job(12), pod(0), pod(1), report=report(8, launch="b", relaunched=stopped))
    assert (told.status.restarts, told.status.restarts_without_progress) == (1, 0)


def test_a_pod_is_not_deleted_for_a_hang_that_its_worker_ended():
    told, _ = decide(running_job(12), pod(0), pod(1), report=report(8, launch="b", relaunched=HANG))
    restarted, _ = decide(told, failed(0), pod(1))
    _, decision = decide(restarted, failed(0), pod(1))
    assert [item.name for item in decision.delete] == ["digits-1-1"], "for worker 0, whom nobody survives"
    alone = replace(told, status=told.status.model_copy(update={"attempt": 2}))
    assert plan(observed(alone, pod(0), pod(1), report=report(9, launch="b"))).delete == ()


def test_a_hang_that_fails_the_job_is_its_failure():
    ended = failed(1, code=ExitCode.HANG)
    told, _ = decide(running_job(restart={"onFailure": {"Hang": "fail"}}), pod(0), ended)
    assert told.status.phase == Phase.FAILED
    assert told.status.failure.category == FailureClass.HANG
    assert told.status.reason == "Hang"


# -- hung as a whole ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("absentee", "age", "seconds", "hung"),
    [
        ((1, 1), 3600, 59, False),
        ((1, 1), 3600, 61, True),
        ((1, 1), 100, 61, True),  # it was there before: nothing is left to import
        ((1, 0), 299, 200, False),  # it may still import
        ((1, 0), 301, 61, True),
        ((1, 0), 301, 59, False),
    ],
)
def test_who_does_not_come_to_the_rendezvous_is_replaced_alone(absentee, age, seconds, hung):
    before = running_job()
    heard = waits(absentee, seconds=float(seconds))
    told, decision = decide(before, started_pod(0, age=age), started_pod(1, age=age), report=heard)
    assert (told.status.attempt == 2) == hung
    if not hung:
        assert told.status.reason == "Rendezvous"
        return
    assert told.status.oldest_attempt == 1
    assert told.status.failure.category == FailureClass.HANG
    assert "worker 1 on node node-1 hangs: it has not come to the rendezvous for 61 s" in told.status.failure.message
    assert not decision.delete, "the counter first"
    replacing, decision = decide(told, started_pod(0, age=age), started_pod(1, age=age), report=heard)
    assert [item.name for item in decision.delete] == ["digits-1-1"]
    assert [item["metadata"]["name"] for item in decision.create if item["kind"] == "Pod"] == ["digits-1-2"]
    assert (replacing.status.phase, replacing.status.workers.ready) == (Phase.RESTARTING, 1)
    leaving = started_pod(1, age=age, deletes_at=later(30))
    for others in ([leaving], [leaving, pod(1, 2, phase="Pending")], [leaving, pod(1, 2)], [pod(1, 2)]):
        replacing, decision = decide(replacing, started_pod(0, age=age), *others, report=heard)
        assert not decision.delete
        assert (replacing.status.attempt, replacing.status.restarts) == (2, 1), "its replacement is given time"
    assert replacing.status.phase == Phase.STARTING


@pytest.mark.parametrize(
    "fields",
    [
        {"report_at": NOW - timedelta(minutes=2)},  # what is waited for now, nobody knows
        {"waiting_reports": {1: (cannot_reach(), NOW)}},  # it lives, and says what keeps it
    ],
)
def test_a_worker_that_may_live_is_left_alone(fields):
    heard = waits((1, 1), seconds=70.0)
    told, _ = decide(running_job(), started_pod(0, age=590), started_pod(1, age=590), report=heard, **fields)
    assert told.status.attempt == 1


def test_a_worker_on_a_silent_node_is_the_clusters_business():
    heard = waits((1, 1), seconds=70.0)
    told, _ = decide(running_job(), started_pod(0, age=900), started_pod(1, age=900, silent=True), report=heard)
    assert told.status.attempt == 1


def test_the_policy_for_hangs_decides():
    before = running_job(restart={"onFailure": {"Hang": "fail"}})
    told, _ = decide(before, started_pod(0), started_pod(1), report=waits((1, 1), seconds=70.0))
    assert told.status.phase == Phase.FAILED
    assert "(spec.restart.onFailure.Hang: fail)" in told.status.failure.message


@pytest.mark.parametrize(
    ("ages", "seconds_ago", "cut_off"),
    [
        ((3600, 601), 0, True),
        ((3600, 599), 0, False),
        ((599, 3600), 0, False),  # worker 0 is new, and nobody could reach it before
        ((3600, 610), 11, False),  # it may have succeeded since
        ((3600, 3600), 76, False),
    ],
)
def test_who_cannot_reach_worker_0_for_long_is_replaced_alone_on_its_own_word(ages, seconds_ago, cut_off):
    words = {1: (cannot_reach(), NOW - timedelta(seconds=seconds_ago))}
    pods = (started_pod(0, age=ages[0]), started_pod(1, age=ages[1]))
    told, _ = decide(running_job(), *pods, waiting_reports=words)
    assert (told.status.attempt == 2) == cut_off
    if not cut_off:
        return
    assert told.status.oldest_attempt == 1
    assert told.status.failure.category == FailureClass.INFRASTRUCTURE
    assert told.status.failure.message.startswith("worker 1 on node node-1 cannot reach worker 0 at worker-0.x")
    assert told.status.node_failures == {"node-1": 1}
    _, decision = decide(told, *pods, waiting_reports=words)
    assert [item.name for item in decision.delete] == ["digits-1-1"]
    assert [item["metadata"]["name"] for item in decision.create if item["kind"] == "Pod"] == ["digits-1-2"]


def test_if_no_other_worker_reaches_worker_0_all_start_again():
    words = {index: (cannot_reach(), NOW) for index in (1, 2)}
    told, _ = decide(
        running_job(workers=3), *(started_pod(index, age=601) for index in range(3)), waiting_reports=words
    )
    assert told.status.failure.message.startswith("no other worker reaches worker 0 on node node-0: worker 1 on node")
    assert (told.status.attempt, told.status.oldest_attempt) == (2, 2)
    one, _ = decide(
        running_job(workers=3), *(started_pod(index, age=601) for index in range(3)), waiting_reports={2: words[2]}
    )
    assert (one.status.failure.worker, one.status.oldest_attempt) == (2, 1)


def test_worker_0_is_blamed_though_not_all_others_have_complained_for_long():
    """Each speaks at moments of its own."""
    pods = [started_pod(index, age=602) for index in range(4)]
    words = {index: (cannot_reach(), NOW - timedelta(seconds=ago)) for index, ago in ((1, 0), (2, 10), (3, 20))}
    told, _ = decide(running_job(workers=4), *pods, waiting_reports=words)
    assert (told.status.failure.worker, told.status.oldest_attempt) == (0, 2)
    words[3] = (cannot_reach(), NOW - timedelta(seconds=100))
    told, _ = decide(running_job(workers=4), *pods, waiting_reports=words)
    assert (told.status.failure.worker, told.status.oldest_attempt) == (1, 1), "worker 3 complains no more"


OLD = (started_pod(0, age=3600), started_pod(1, age=3600))


def silence(seconds, **fields):
    """Return the job after so many seconds without a word of worker 0."""
    values = {"report": report(10), "report_at": NOW, "listening_since": NOW - timedelta(hours=1), **fields}
    return decide(running_job(), *OLD, now=later(seconds), **values)[0].status


def says_at(seconds):
    """Return that another worker said then that it waits for worker 0."""
    return {1: (waits((0, 1)), later(seconds))}


def test_worker_0_that_says_nothing_while_another_waits_for_it_is_replaced_and_all_with_it():
    status = silence(181, waiting_reports=says_at(170))
    assert (status.attempt, status.oldest_attempt) == (2, 2)
    assert status.failure.category == FailureClass.HANG
    assert "worker 0 on node node-0 hangs: it has sent no report for 181 s" in status.failure.message


@pytest.mark.parametrize(
    "fields",
    [
        {},  # it may be this job's reports that nobody receives
        {"waiting_reports": says_at(30)},  # nobody is heard any more
        {"waiting_reports": says_at(190), "listening_since": later(100)},  # the operator has just begun to listen
        {"waiting_reports": says_at(190), "listening_since": None},
        {"waiting_reports": says_at(190), "report_at": later(60)},  # it was heard of not long ago
        {"waiting_reports": says_at(-1)},  # said before worker 0 was heard
        {
            "waiting_reports": says_at(190),
            "settings": replace(SETTINGS, report_interval=21.0),
        },  # it reports that seldom
    ],
)
def test_silence_without_a_witness_of_the_same_job_is_no_hang(fields):
    status = silence(200, **fields)
    assert status.attempt == 1
    assert status.failure is None


def test_a_lone_worker_that_says_nothing_is_told_and_left_alone():
    silent, _ = decide(
        running_job(workers=1),
        started_pod(0, age=3600),
        report=report(10),
        report_at=NOW,
        now=later(10_000),
        listening_since=NOW - timedelta(hours=1),
    )
    assert (silent.status.attempt, silent.status.phase) == (1, Phase.RUNNING)
    assert silent.status.reason == "ReportsOverdue"
    assert silent.status.message.startswith("no report for 10000 s; all pods run")


def test_how_long_a_word_counts_follows_from_how_often_workers_report():
    seldom = replace(SETTINGS, report_interval=30.0)
    assert silence(301, waiting_reports=says_at(151)).attempt == 1, "said 150 s ago"
    assert silence(301, waiting_reports=says_at(151), settings=seldom).attempt == 2
    assert silence(301, waiting_reports=says_at(150), settings=seldom).attempt == 1


@given(
    st.integers(0, 2000),
    st.none() | st.integers(-3600, 2000),
    st.none() | st.integers(-100, 2000).map(says_at),
)
def test_nobody_is_hung_whose_last_word_or_whose_chance_to_speak_is_recent(seconds, since, words):
    status = silence(seconds, waiting_reports=words or {}, listening_since=None if since is None else later(since))
    if status.attempt == 2:
        assert seconds - max(0, since) >= 180
        assert words


def test_the_time_of_the_containers_start_is_read():
    manifest = {
        "metadata": {
            "name": "digits-0-1",
            "uid": "u",
            "labels": {"trainwright.dev/worker-index": "0", "trainwright.dev/attempt": "1"},
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "worker", "state": {"running": {"startedAt": "2026-01-02T03:04:05Z"}}}],
        },
    }
    assert read_pod(manifest, "digits").started_at == NOW
