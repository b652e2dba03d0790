"""What to do when a worker failed: give up, or start it, or all of them, again.

A restart is a counter. Here only the counters are raised; once they are written, membership deletes and creates.
"""

from datetime import datetime, timedelta
from typing import Any

from trainwright.api.exit_codes import FailureClass
from trainwright.api.spec import RestartSpec, TrainingJobSpec
from trainwright.api.spec.restart import OnFailureSpec, Reaction
from trainwright.api.status import Failure, Phase, TrainingJobStatus
from trainwright.plan import elastic, placement, postmortem, storage
from trainwright.plan.membership import REPLACED, Crew
from trainwright.plan.types import Observed, Pod

_LONGEST_BACKOFF = 300
_SPARE_BACKOFF = 10
_BREATHER = timedelta(minutes=1)
"""Preemptions wait for nothing, unless one follows another sooner than this."""
_COMPLETE = (Phase.STARTING, Phase.RUNNING)
"""Phases in which every worker has had its pod: one without is lost."""


def decide(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> TrainingJobStatus:
    """Return the status with failures dealt with: unchanged, restarting, or failed."""
    casualties = [pod for pod in crew.newest.values() if _is_casualty(pod, status)]
    lost = _lost_workers(spec, status, crew)
    needed = [pod for pod in casualties if pod.index not in elastic.aside(status)]
    if needed or lost:
        casualties = needed
    if not casualties and not lost:
        return status
    if casualties:
        failure = postmortem.explain(casualties, status.attempt, observed.now)
    else:
        failure = _explain_loss(lost[0], observed, status)
    gone = {*lost, *(pod.index for pod in casualties)}
    if spec.scheduling.in_kueue and any(pod.silent for pod in needed):
        # A pod on a dead node stays a member of Kueue's group for ever: there is no room in it for another.
        gone = set(range(spec.workers.count))
    return answer(observed, spec, status, failure, gone)


def answer(
    observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, failure: Failure, gone: set[int]
) -> TrainingJobStatus:
    """Return the status of a job that gives up because of a failure, or starts anew without the workers that are gone.

    What becomes of workers that training goes on without fails no job, and counts against no limit.
    """
    if gone <= elastic.aside(status):
        return _replace(observed.now, status, failure)
    verdict = _refusal(spec.restart, status, failure)
    if verdict is not None:
        return fail(status, failure.model_copy(update={"message": f"{failure.message}{verdict}"}), observed.now)
    return _restart(observed, spec.restart, status, failure, gone)


def move(observed: Observed, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status: with a new attempt for a worker whose processes failed inside its pod on a node that is now avoided.

    It was counted as a restart when it was reported, and has started again since; but it would fail there again.
    """
    failure = status.failure
    shunned = set(placement.avoided(status)) - set(placement.avoided(observed.job.status))
    if failure is None or failure.worker is None or failure.node not in shunned:
        return status
    if failure.worker == 0 and storage.at_stake(observed, status):
        # It has recovered where it is; a new pod would begin anew.
        return status
    attempt = status.attempt + 1
    trains = failure.worker not in elastic.aside(status)
    return status.model_copy(
        update={
            "attempt": attempt,
            "oldest_attempt": attempt if failure.worker == 0 else status.oldest_attempt,
            "next_start": None,
            "failure": failure.model_copy(update={"reason": REPLACED}),
            **(_interrupted(status, observed.now) if trains else {}),
        }
    )


def _refusal(policy: RestartSpec, status: TrainingJobStatus, failure: Failure) -> str | None:
    """Return what to add to the failure's message when it is final; None when the job is to be tried again."""
    category = failure.category
    if policy.on_failure.to(category) == Reaction.FAIL:
        return "" if OnFailureSpec().to(category) == Reaction.FAIL else f" (spec.restart.onFailure.{category}: fail)"
    spent = without_progress(status)
    if category == FailureClass.PREEMPTED or spent < policy.limit:
        return None
    return f"; gave up after {spent} restarts without progress (spec.restart.limit)"


def without_progress(status: TrainingJobStatus) -> int:
    """Return the restarts, preemptions apart, since a checkpoint last went beyond all former ones."""
    saved = _best_saved(status)
    progressed = saved is not None and (status.saved_step is None or saved > status.saved_step)
    return 0 if progressed else status.restarts_without_progress


def counted(status: TrainingJobStatus, category: FailureClass | None) -> dict[str, Any]:
    """Return the counters after one more restart."""
    return {
        "restarts": status.restarts + 1,
        "restarts_without_progress": without_progress(status) + (category != FailureClass.PREEMPTED),
        "saved_step": _best_saved(status),
    }


def _best_saved(status: TrainingJobStatus) -> int | None:
    saved = [checkpoint.step for checkpoint in status.checkpoints]
    return max([*saved, *([] if status.saved_step is None else [status.saved_step])], default=None)


def _is_casualty(pod: Pod, status: TrainingJobStatus) -> bool:
    """Return whether the pod failed and no restart has answered that yet.

    While a restart is being carried out, pods of older attempts that fail belong to it: their replacements come anyway.
    The same holds while training goes on without it. Worker 0 is the exception, for the others cannot go on without it.
    """
    gone = pod.phase == "Failed" or (pod.deleting and pod.phase != "Succeeded")
    needed = status.phase in _COMPLETE and pod.index not in elastic.aside(status)
    return gone and (needed or pod.attempt == status.attempt or pod.index == 0)


def _lost_workers(spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> list[int]:
    if status.phase not in _COMPLETE:
        return []
    gone = (index for index in range(spec.workers.count) if index not in crew.newest)
    return [index for index in gone if index not in elastic.aside(status)]


def _explain_loss(index: int, observed: Observed, status: TrainingJobStatus) -> Failure:
    known = next((worker for worker in status.workers.pods if worker.index == index), None)
    pod = known.pod if known else f"of worker {index}"
    return postmortem.vanished(index, pod, known.node if known else None, status.attempt, observed.now)


def _restart(
    observed: Observed, policy: RestartSpec, status: TrainingJobStatus, failure: Failure, gone: set[int]
) -> TrainingJobStatus:
    """Return the status with the counters of a restart raised.

    Without worker 0 nothing is left to rejoin, for it holds the rendezvous: then all start again. Otherwise the others stay,
    wait for the replacement and go on with it.
    """
    attempt = status.attempt + 1
    delay = _delay(observed.now, policy, status, failure)
    return status.model_copy(
        update={
            "attempt": attempt,
            "oldest_attempt": attempt if 0 in gone else status.oldest_attempt,
            **counted(status, failure.category),
            **placement.blame(status, failure),
            "next_start": observed.now + delay if delay else None,
            "failure": failure,
            **_interrupted(status, observed.now + delay),
        }
    )


def _replace(now: datetime, status: TrainingJobStatus, failure: Failure) -> TrainingJobStatus:
    """Return the status with a new attempt for workers that training goes on without: no restart, the others notice nothing.

    The wait before it grows until one of them is let in. A mistake that only they make must not make pods without end.
    """
    workers = status.workers
    delay = _doubled(_SPARE_BACKOFF, workers.replaced)
    return status.model_copy(
        update={
            "attempt": status.attempt + 1,
            **placement.blame(status, failure),
            "next_start": now + delay if delay else None,
            "failure": failure,
            "workers": workers.model_copy(update={"replaced": workers.replaced + 1}),
        }
    )


def _interrupted(status: TrainingJobStatus, begins: datetime) -> dict[str, Any]:
    """Return what changes when the present launch has come to an end and the next one waits from then on."""
    return {
        "phase": Phase.RESTARTING,
        "waiting_since": begins,
        "workers": status.workers.model_copy(update={"training": None, "absent": [], "replaced": 0}),
        "progress": status.progress.model_copy(update={"ended_launch": status.progress.launch}),
    }


def _delay(now: datetime, policy: RestartSpec, status: TrainingJobStatus, failure: Failure) -> timedelta:
    if failure.category != FailureClass.PREEMPTED:
        return backoff(policy, without_progress(status))
    hasty = status.failure is not None and now - status.failure.failed_at < _BREATHER
    return timedelta(seconds=policy.backoff_seconds) if hasty else timedelta()


def backoff(policy: RestartSpec, restarts: int) -> timedelta:
    """Return the wait before the next restart, after so many before it: none, then doubling up to five minutes."""
    return _doubled(policy.backoff_seconds, restarts)


def _doubled(seconds: int, times: int) -> timedelta:
    return timedelta(seconds=min(seconds * 2 ** min(times - 1, 16), _LONGEST_BACKOFF) if times else 0)


def fail(status: TrainingJobStatus, failure: Failure, now: datetime) -> TrainingJobStatus:
    """Return the status of a job that has failed for good."""
    return status.model_copy(
        update={
            "phase": Phase.FAILED,
            "failure": failure,
            "finished_at": now,
            "next_start": None,
            "waiting_since": None,
        }
    )
