"""The ledger: every second since creation is charged once, to what it was spent on."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from situations import NOW, failed, job, observed, pod, report, running_job

from trainwright.api.exit_codes import ExitCode
from trainwright.api.status import Goodput, LaunchSeconds, Phase, read_status
from trainwright.api.worker import Termination, WorkerPhase
from trainwright.plan import plan
from trainwright.plan.goodput import worker_seconds

CREW = (pod(0), pod(1))


def at(seconds):
    return NOW + timedelta(seconds=seconds)


def decide(before, seconds, *pods, **fields):
    """Return the job after a pass so many seconds after its creation, as the API server would hold it."""
    status = plan(observed(before, *pods, now=at(seconds), **fields)).status
    return before if status is None else replace(before, status=read_status(status.to_wire()))


def says(step, launch="a", resumed=None, phase=WorkerPhase.TRAINING, **seconds):
    """Return a report of a launch that has spent its time on these things."""
    spent = LaunchSeconds(**{kind: float(value) for kind, value in seconds.items()})
    return report(step, launch=launch, phase=phase, resumed_from_step=resumed, seconds=spent)


def spent(job):
    ledger = job.status.goodput
    return {kind: getattr(ledger, kind) for kind in Goodput.KINDS if getattr(ledger, kind)}


def started(**fields):
    """Return a job that trains since second 30: 10 pending, 20 until the first step; reported at second 32."""
    new = decide(job(**fields), 0)
    running = decide(new, 10, *CREW)
    return decide(running, 32, *CREW, report=says(2, loading=18, training=2))


def test_a_start_is_pending_then_starting_then_training():
    assert spent(decide(job(), 7)) == {"pending": 7}
    running = started()
    assert spent(running) == {"pending": 10, "starting": 20, "training": 2}
    assert running.status.goodput.ratio == round(2 / 22, 4)
    assert running.status.goodput.until == at(32)


def test_time_is_charged_as_rank_0_says():
    later = decide(started(), 100, *CREW, report=says(60, loading=18, training=50, checkpointing=5, evaluating=15))
    assert spent(later) == {"pending": 10, "starting": 20, "training": 50, "checkpointing": 5, "evaluating": 15}


def test_a_report_that_comes_again_adds_nothing():
    running = started()
    again = says(2, loading=18, training=2)
    assert spent(decide(running, 33, *CREW, report=again, report_at=at(32))) == spent(running)
    assert spent(decide(running, 40, *CREW, report=says(20, loading=18, training=10))) == {
        "pending": 10,
        "starting": 20,
        "training": 10,
    }


def test_an_operator_that_was_away_charges_what_it_missed():
    away = decide(job(), 0)
    back = decide(away, 3600, *CREW, report=says(900, loading=20, training=3000, evaluating=500))
    assert spent(back) == {"pending": 80, "starting": 20, "training": 3000, "evaluating": 500}
    running = started()
    nothing_heard = decide(running, 3600, *CREW)
    assert spent(nothing_heard) == spent(running)  # an hour of silence says nothing of what the workers did
    heard = decide(nothing_heard, 3601, *CREW, report=says(900, loading=18, training=3471, evaluating=100))
    assert spent(heard) == {"pending": 10, "starting": 20, "training": 3471, "evaluating": 100}


def test_a_restart_replays_up_to_the_frontier():
    running = decide(started(), 90, *CREW, report=says(60, loading=18, training=60))
    restarting = decide(running, 92, pod(0), failed(1))
    pods = (pod(0), pod(1, attempt=2))
    running = decide(restarting, 100, *pods)
    back = decide(running, 120, *pods, report=says(50, "b", 40, loading=10, training=10))
    # Steps 41 to 50 had been taken before; the time from the report to the failure counts as training.
    assert spent(back) == {"pending": 10, "starting": 30, "training": 62, "restarting": 8, "replaying": 10}
    onward = decide(back, 160, *pods, report=says(80, "b", 40, loading=10, training=50))
    assert onward.status.goodput.replaying == 10 + 13  # 40 s for steps 51 to 80, of which 10 in 30 were old
    assert onward.status.goodput.frontier == 80
    assert sum(spent(onward).values()) == 160


def test_silence_is_charged_once_somebody_knows_what_it_was():
    running = started()
    stale = decide(running, 32 + 60, *CREW)
    assert stale.status.progress.stale
    assert spent(stale) == spent(running)
    over = decide(stale, 300, *CREW, report=says(200, loading=18, training=270))
    assert spent(over) == {"pending": 10, "starting": 20, "training": 270}
    lost = decide(stale, 300, pod(0), failed(1))
    assert spent(lost) == {"pending": 10, "starting": 20, "training": 62, "stalled": 208}


def test_restarted_processes_cost_restarting():
    again = decide(started(), 60, *CREW, report=says(4, "b", 1, loading=8, training=5))
    assert spent(again) == {"pending": 10, "starting": 28, "training": 3 + 2, "replaying": 2, "restarting": 15}


def test_a_suspension_is_neither_active_nor_lost():
    running = started()
    suspended = decide(replace(running, spec=job(suspend=True).spec), 40, *CREW)
    resumed = decide(replace(suspended, spec=running.spec), 1000)
    assert spent(resumed) == {"pending": 10, "starting": 20, "training": 10, "suspended": 960}
    assert resumed.status.goodput.ratio == pytest.approx(10 / 30, abs=1e-4)


def test_the_ledger_alone_is_never_a_reason_to_write():
    waiting = decide(decide(job(), 0), 5, pod(0, phase="Pending"), pod(1, phase="Pending"))
    for seconds in (6, 60, 6000):
        assert plan(observed(waiting, pod(0, phase="Pending"), pod(1, phase="Pending"), now=at(seconds))).status is None


def test_gpus_held_and_used():
    gpus = {"count": 2, "resources": {"limits": {"nvidia.com/gpu": 4, "cpu": 2}}}
    asked = replace(job(), spec=job().spec.model_validate(job().spec.to_wire() | {"workers": gpus}, strict=False))
    new = decide(asked, 0)
    ran = decide(decide(new, 10, *CREW), 32, *CREW, report=says(2, loading=18, training=2))
    assert ran.status.goodput.gpu_seconds_held == 22 * 8
    assert ran.status.goodput.gpu_seconds_used == 2 * 8
    assert worker_seconds(ran.status, at(42)) == (22 + 10) * 2


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [
        (None, 0),
        ({"limits": {"cpu": 8}}, 0),
        ({"limits": {"nvidia.com/gpu": 2}, "requests": {"nvidia.com/gpu": 2}}, 2),
        ({"limits": {"amd.com/gpu": "3"}}, 3),
        ({"limits": {"nvidia.com/mig-1g.5gb": 1, "gpu.intel.com/i915": 1}}, 1),
    ],
)
def test_whatever_counts_as_a_gpu(resources, gpus):
    asked = job().spec.to_wire() | {"workers": {"count": 1} | ({"resources": resources} if resources else {})}
    assert job().spec.model_validate(asked, strict=False).workers.gpus == gpus


STRETCHES = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 5), st.integers(0, 5), st.sampled_from(["kept", "lost", "unseen"])),
    max_size=30,
)


@given(STRETCHES)
def test_whatever_writes_are_lost_the_sums_come_out_the_same(stretches):
    """Passes whose write was lost, and times without an operator, change nothing in the end."""
    running, now, step = started(), 32, 2
    truth = {"loading": 18, "training": 2, "checkpointing": 0, "evaluating": 0}
    for training, checkpointing, evaluating, fate in [*stretches, (1, 1, 1, "kept")]:
        now += training + checkpointing + evaluating
        step += training
        truth["training"] += training
        truth["checkpointing"] += checkpointing
        truth["evaluating"] += evaluating
        if fate != "unseen":
            after = decide(running, now, *CREW, report=says(step, **truth))
            running = after if fate == "kept" else running
    said = spent(running)
    assert said == {kind: value for kind, value in {
        "pending": 10,
        "starting": 20,
        "training": truth["training"],
        "checkpointing": truth["checkpointing"],
        "evaluating": truth["evaluating"],
    }.items() if value}  # fmt: skip
    assert sum(said.values()) == now


def test_the_end_closes_the_ledger():
    running = started()
    over = decide(running, 50, pod(0), failed(1, code=ExitCode.USER_ERROR))
    assert over.status.phase == Phase.FAILED
    assert sum(spent(over).values()) == 50
    assert decide(over, 5000).status.goodput == over.status.goodput


@pytest.mark.parametrize(
    ("by_its_clock", "finished"),
    [(600, 600), (-5000, 0), (40_000, 36_000)],  # a node's clock may be wrong, but not by more than can be
)
def test_a_job_ended_when_worker_0_did_however_late_that_is_noticed(by_its_clock, finished):
    last = says(100, phase=WorkerPhase.FINISHED, loading=18, training=500, evaluating=60)
    said = Termination(exit_code=0, report=last)
    leader = pod(0, phase="Succeeded", exit_code=0, termination=said, finished_at=at(by_its_clock))
    running = started(ttlSecondsAfterFinished=100)
    over = decide(running, 36_000, leader, pod(1, phase="Succeeded"))
    assert over.status.phase == Phase.SUCCEEDED
    assert over.status.finished_at == at(finished)
    assert sum(spent(over).values()) == max(32, finished)
    assert over.status.goodput.worker_seconds_held == worker_seconds(running.status, max(at(32), at(finished)))
    assert plan(observed(over, now=at(finished + 100))).delete_job


def test_a_ledger_that_nobody_can_read_begins_anew():
    running = running_job()
    wire = running.status.to_wire()
    broken = read_status(wire | {"goodput": {"training": "much"}})
    assert broken.goodput is None
    assert broken.attempt == running.status.attempt
