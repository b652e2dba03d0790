"""A spent budget saves and stops; a limit that will be missed is said beforehand, and said once."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, SETTINGS, failed, job, observed, pod, report

from trainwright.api.exit_codes import ExitCode, FailureClass
from trainwright.api.status import Checkpoint, ConditionType, Phase, read_status
from trainwright.plan import plan
from trainwright.plan.urgency import Urgency

HOUR = timedelta(hours=1)
CREW = (pod(0), pod(1))


def decide(before, *pods, **fields):
    decision = plan(observed(before, *pods, **fields))
    status = before.status if decision.status is None else read_status(decision.status.to_wire())
    return replace(before, status=status), decision


def training(now=NOW, step=10, total=100, rate=5.0, **fields):
    """Return a job that has just reported, and the time of the report."""
    new, _ = decide(job(**fields), now=now)
    starting, _ = decide(new, *CREW, now=now)
    return decide(starting, *CREW, report=said(step, total, rate), now=now)[0]


def said(step, total=100, rate=5.0, **fields):
    return report(step, total_steps=total, steps_per_second=rate, **fields)


def saved(step, path="/checkpoints/digits-1/checkpoints/step-00000040"):
    return Checkpoint(step=step, path=path, bytes=1, sha256="0" * 64, saved_at=NOW)


def degraded(job):
    return job.status.condition(ConditionType.DEGRADED)


def test_a_spent_budget_has_the_workers_save_and_go_before_the_job_ends():
    running = training(budget={"workerHours": 2}, checkpoint={"persistentVolumeClaim": "checkpoints"})
    on_time, decision = decide(running, *CREW, report=said(30), now=NOW + HOUR - timedelta(seconds=30))
    assert decision.delete == ()
    assert decision.requeue_after == pytest.approx(30)
    stopping, decision = decide(on_time, *CREW, report=said(40), now=NOW + HOUR)
    assert (decision.delete, decision.requeue_after) == ((), 0)  # first it is written, then it is done
    assert stopping.status.phase == Phase.RUNNING
    assert stopping.status.reason == "BudgetSpent"
    assert "2 worker hours (spec.budget.workerHours) are spent: 2 workers still saving" in stopping.status.message
    _, decision = decide(stopping, *CREW, report=said(40), now=NOW + HOUR)
    assert {deletion.name for deletion in decision.delete} == {"digits-0-1", "digits-1-1"}
    # What they save on their way out is heard of and told; their end is no failure that a restart would answer.
    going = tuple(replace(p, deletes_at=NOW + HOUR + timedelta(seconds=60)) for p in CREW)
    last = said(42, checkpoints=[saved(42)])
    heard, decision = decide(stopping, *going, report=last, now=NOW + HOUR + timedelta(seconds=2))
    assert (decision.create, decision.delete, heard.status.restarts) == ((), (), 0)
    ended = tuple(replace(p, phase="Failed", exit_code=75) for p in going)
    over, decision = decide(heard, *ended, report=last, now=NOW + HOUR + timedelta(seconds=5))
    failure = over.status.failure
    assert (over.status.phase, over.status.reason, failure.reason) == (Phase.FAILED, "BudgetSpent", "BudgetSpent")
    assert failure.message == (
        "the budget of 2 worker hours (spec.budget.workerHours) is spent at step 42 of 100; step 42 is saved in "
        "/checkpoints/digits-1/checkpoints/step-00000040"
    )
    assert failure.hint.endswith("spec.startFrom.path: digits-1/checkpoints/step-00000040")
    assert [event.reason for event in decision.events] == ["Failed"]


def test_a_pod_that_never_ends_does_not_keep_the_job_from_ending():
    stopping, _ = decide(training(budget={"workerHours": 1}), *CREW, now=NOW + HOUR / 2)
    stuck = replace(pod(1), deletes_at=NOW + HOUR / 2 + timedelta(seconds=60))
    _, decision = decide(stopping, stuck, now=NOW + HOUR / 2)
    assert decision.requeue_after == pytest.approx(65)
    over, _ = decide(stopping, stuck, now=NOW + HOUR / 2 + timedelta(seconds=65))
    assert over.status.phase == Phase.FAILED


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"checkpoints": []}, "nothing was saved yet"),
        ({"checkpoints": [saved(8)]}, "step 8 was saved in worker 0's scratch space and is gone with it"),
    ],
)
def test_what_was_not_kept_is_said_too(fields, words):
    running, _ = decide(training(budget={"workerHours": 1}), *CREW, report=said(11, **fields))
    stopping, _ = decide(running, *CREW, now=NOW + HOUR / 2)
    over, _ = decide(stopping, now=NOW + HOUR)
    assert words in over.status.failure.message


@pytest.mark.parametrize("budget", [{"workerHours": 1000}, None])
@pytest.mark.parametrize("left", [CREW, ()])
def test_a_budget_that_is_raised_while_it_saves_is_not_spent(budget, left):
    durable = {"checkpoint": {"persistentVolumeClaim": "checkpoints"}}
    running, _ = decide(training(budget={"workerHours": 1}, **durable), *CREW, report=said(40, checkpoints=[saved(40)]))
    stopping, _ = decide(running, *CREW, now=NOW + HOUR / 2)
    going = tuple(replace(p, deletes_at=NOW + HOUR) for p in left)
    edited = replace(stopping, spec=job(budget=budget, **durable).spec, generation=2)
    raised, decision = decide(edited, *going, now=NOW + HOUR / 2)
    status = raised.status
    assert (status.phase, status.budget_spent_at, status.failure) == (Phase.PENDING, None, None)
    assert (status.attempt, status.oldest_attempt, status.restarts) == (2, 2, 0)
    assert status.checkpoints == [saved(40)]
    _, decision = decide(raised, *going, now=NOW + HOUR / 2)
    assert any(manifest["kind"] == "Pod" for manifest in decision.create) == (not left)  # it may still be saving


@pytest.mark.parametrize("quiet", [timedelta(), HOUR / 12])
@pytest.mark.parametrize("generation", [1, 2])
def test_a_spent_budget_stays_spent_while_the_workers_go_and_nobody_reports(quiet, generation):
    """Whoever terminates is not ready, and holds nothing more: the ledger must have charged all before."""
    running, _ = decide(training(budget={"workerHours": 1}), *CREW, report=said(40), now=NOW + HOUR / 2 - quiet)
    stopping, _ = decide(running, *CREW, now=NOW + HOUR / 2)
    going = tuple(replace(p, deletes_at=NOW + HOUR) for p in CREW)
    edited = replace(stopping, generation=generation)  # something else than the budget
    saving, _ = decide(edited, *going, now=NOW + HOUR / 2 + timedelta(seconds=10))
    assert saving.status.workers.ready == 0
    saving, _ = decide(saving, *going, now=NOW + HOUR / 2 + timedelta(seconds=20))
    over, decision = decide(saving, now=NOW + HOUR / 2 + timedelta(seconds=30))
    assert (over.status.phase, over.status.reason, over.status.attempt) == (Phase.FAILED, "BudgetSpent", 1)
    assert decision.create == ()


def test_an_operator_that_was_away_takes_no_failure_for_a_spent_budget():
    running = training(budget={"workerHours": 20})
    wrong = [failed(index, code=ExitCode.USER_ERROR, finished_at=NOW + HOUR) for index in (0, 1)]
    found, _ = decide(running, *wrong, now=NOW + 12 * HOUR)
    assert (found.status.phase, found.status.failure.category) == (Phase.FAILED, FailureClass.USER_ERROR)


def test_a_worker_that_leaves_between_two_reports_is_charged_for():
    running = training(workers=4, least=2)
    crew = [pod(index) for index in range(4)]
    without_3 = said(20, absent=[3])
    aside, _ = decide(running, *crew, report=without_3)
    fewer, _ = decide(aside, *crew[:3], report=without_3, report_at=NOW, now=NOW + HOUR)
    assert (aside.status.workers.ready, fewer.status.workers.ready) == (4, 3)
    assert fewer.status.goodput.worker_seconds_held - aside.status.goodput.worker_seconds_held == 4 * 3600


@pytest.mark.parametrize(("hours", "workers"), [(1e9, 8), (1e9, 1)])
def test_a_budget_without_end_has_no_end(hours, workers):
    running = training(workers=workers, budget={"workerHours": hours}, activeDeadlineSeconds=60)
    crew = [pod(index) for index in range(workers)]
    over, _ = decide(running, *crew, report=said(20), now=NOW + timedelta(seconds=61))
    assert over.status.failure.reason == "DeadlineExceeded"


@pytest.mark.parametrize(("total", "rate"), [(10**9, 0.003), (100, 1e-300), (2**63 - 1, 1e-300)])
def test_training_without_end_has_no_eta(total, rate):
    running, _ = decide(training(), *CREW, report=said(20, total=total, rate=rate))
    assert (running.status.progress.step, running.status.progress.eta) == (20, None)


def test_gpu_hours_count_every_gpu():
    workers = {"workers": {"count": 2, "resources": {"limits": {"nvidia.com/gpu": 4}}}}
    raw = job(budget={"workerHours": 1}).spec.to_wire() | workers | {"budget": {"gpuHours": 8}}
    asked = replace(job(), spec=job().spec.model_validate(raw, strict=False))
    new, _ = decide(asked)
    starting, _ = decide(new, *CREW)
    running, _ = decide(starting, *CREW, report=said(1))
    _, decision = decide(running, *CREW, report=said(2), now=NOW + HOUR - timedelta(seconds=30))
    assert decision.delete == ()
    assert decision.requeue_after == pytest.approx(30)
    assert decide(running, *CREW, report=said(2), now=NOW + HOUR)[0].status.reason == "BudgetSpent"


def test_time_without_workers_costs_nothing():
    running = training(budget={"workerHours": 1})
    suspended, _ = decide(replace(running, spec=job(suspend=True, budget={"workerHours": 1}).spec), *CREW)
    gone, _ = decide(suspended)
    resumed, _ = decide(replace(gone, spec=running.spec), now=NOW + 24 * HOUR)
    assert resumed.status.phase == Phase.PENDING


def test_a_deadline_that_will_be_missed_is_said_beforehand_and_once():
    running = training(activeDeadlineSeconds=3600, total=10_000, rate=10_000 / 11_100)
    assert running.status.message.endswith("at this rate it will miss spec.activeDeadlineSeconds by 2h4m")
    assert (degraded(running).status, degraded(running).reason) == ("True", "DeadlineAtRisk")
    again, decision = decide(running, *CREW, report=said(20, 10_000, 0.9), now=NOW + timedelta(seconds=10))
    assert decision.events == ()
    assert decision.urgency == Urgency.PROGRESS
    assert "it will miss spec.activeDeadlineSeconds by" in again.status.message


def test_the_first_warning_makes_one_event_and_news():
    calm = training(activeDeadlineSeconds=3600, total=100)
    assert degraded(calm) is None
    warned, decision = decide(calm, *CREW, report=said(20, 100, 0.01), now=NOW + timedelta(seconds=10))
    assert [(event.reason, event.warning) for event in decision.events] == [("DeadlineAtRisk", True)]
    assert decision.urgency == Urgency.NEWS
    assert degraded(warned).status == "True"


def test_an_estimate_that_wavers_does_not_make_the_warning_waver():
    calm = training(activeDeadlineSeconds=3600)
    changes, before = 0, calm
    for number in range(1, 200):
        # By turns one in twenty faster and slower than what the deadline asks for.
        left = 3600 - number * 10
        rate = 1000 / left * (1.05 if number % 2 else 0.96)
        after, _ = decide(
            before, *CREW, report=said(10 + number, 1010 + number, rate), now=NOW + timedelta(seconds=10 * number)
        )
        changes += (degraded(after) is None) != (degraded(before) is None)
        before = after
    assert changes == 0
    missed, _ = decide(before, *CREW, report=said(300, 10_000, 1.0), now=NOW + timedelta(seconds=2000))
    assert degraded(missed).status == "True"
    nearly, _ = decide(missed, *CREW, report=said(301, 10_000, 9699 / 1600), now=NOW + timedelta(seconds=2010))
    assert degraded(nearly).status == "True"
    saved_time, _ = decide(nearly, *CREW, report=said(302, 10_000, 100.0), now=NOW + timedelta(seconds=2020))
    assert (degraded(saved_time).status, degraded(saved_time).reason) == ("False", "AsExpected")
    assert "at this rate" not in saved_time.status.message


def test_a_budget_that_will_not_last_is_said():
    running = training(budget={"workerHours": 2}, total=10_000, rate=1.0)
    assert degraded(running).reason == "BudgetAtRisk"
    assert running.status.message.endswith(
        "at this rate 2 worker hours (spec.budget.workerHours) will be spent 1h46m before the end"
    )


def test_a_warning_outlives_a_restart_and_ends_with_the_job():
    running = training(activeDeadlineSeconds=3600, total=10_000, rate=0.5)
    restarting, decision = decide(running, pod(0))
    assert restarting.status.phase == Phase.RESTARTING
    assert degraded(restarting) == degraded(running)
    assert "DeadlineAtRisk" not in [event.reason for event in decision.events]
    over, _ = decide(running, *CREW, now=NOW + HOUR)
    assert (over.status.reason, degraded(over).status) == ("DeadlineExceeded", "False")


def test_silence_keeps_the_last_word():
    running = training(activeDeadlineSeconds=3600, total=10_000, rate=0.5)
    silent = NOW + timedelta(seconds=SETTINGS.stale_after + 1)
    assert degraded(decide(running, *CREW, now=silent)[0]).status == "True"
