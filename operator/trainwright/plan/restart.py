"""What to do when a worker failed: fail the job, or start that worker or all workers again.

A restart is a counter. Only the counters are raised here; once they are written, membership deletes and creates pods.
"""

from datetime import datetime, timedelta

from trainwright.api.exit_codes import FailureClass
from trainwright.api.spec import RestartSpec
from trainwright.api.spec.restart import OnFailureSpec, Reaction
from trainwright.api.status import Failure, Phase, TrainingJobStatus
from trainwright.plan import elastic, placement, postmortem, storage
from trainwright.plan.pods import REPLACED, Pod
from trainwright.plan.types import Pass

_LONGEST_BACKOFF = 300
_ELASTIC_BACKOFF = 10
_SHORTLY = timedelta(minutes=1)
"""After a preemption the job restarts at once, unless another failure came less than this before."""
_COMPLETE = (Phase.STARTING, Phase.RUNNING)
"""Phases in which every worker has had a pod: a worker without one is lost."""


def decide(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus | None:
    """Return the status, restarting or failed, if a worker failed or was lost; None if none was."""
    failed = [pod for pod in current.pods.newest.values() if _has_failed(pod, status)]
    lost = _lost_workers(current, status)
    needed = [pod for pod in failed if pod.index not in elastic.left_out(status)]
    if needed or lost:
        failed = needed
    if not failed and not lost:
        return None
    if failed:
        failure = postmortem.explain(failed, status.attempt, current.now)
    else:
        failure = _explain_loss(current, lost[0], status)
    gone = {*lost, *(pod.index for pod in failed)}
    if current.spec.scheduling.in_kueue and any(pod.silent for pod in needed):
        # A pod on a dead node remains a member of Kueue's group, so the group has no room for a replacement.
        gone = set(range(current.spec.workers.count))
    return answer(current, status, failure, gone)


def answer(current: Pass, status: TrainingJobStatus, failure: Failure, gone: set[int]) -> TrainingJobStatus:
    """Return the status of a job that fails because of a failure, or that starts again the workers that are gone.

    A failure of workers that training goes on without fails no job and counts against no limit.
    """
    if gone <= elastic.left_out(status):
        return _replace(current.now, status, failure)
    refusal = _refusal(current.spec.restart, status, failure)
    if refusal is not None:
        return fail(status, failure.changed(message=f"{failure.message}{refusal}"), current.now)
    return _restart(current, status, failure, gone)


def move(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus | None:
    """Return the status with a new attempt for a worker whose processes failed on a node that is avoided from now on.

    The processes have started again inside the pod, and that was counted as a restart when it was reported. But they would
    fail there again, so the pod is replaced. None if no worker is to move.
    """
    failure = status.failure
    newly_avoided = set(placement.avoided(status)) - set(placement.avoided(current.job.status))
    if failure is None or failure.worker is None or failure.node not in newly_avoided:
        return None
    if failure.worker == 0 and storage.at_stake(current, status):
        # Worker 0 has recovered in its pod. A new pod would lose the checkpoints and start from the beginning.
        return None
    attempt = status.attempt + 1
    if failure.worker not in elastic.left_out(status):
        status = _interrupted(status, current.now)
    return status.changed(
        attempt=attempt,
        oldest_attempt=attempt if failure.worker == 0 else status.oldest_attempt,
        next_start=None,
        failure=failure.changed(reason=REPLACED),
    )


def _refusal(policy: RestartSpec, status: TrainingJobStatus, failure: Failure) -> str | None:
    """Return what to add to the failure's message if it is final; None if the job is to be restarted."""
    category = failure.category
    if policy.on_failure.to(category) == Reaction.FAIL:
        return "" if OnFailureSpec().to(category) == Reaction.FAIL else f" (spec.restart.onFailure.{category}: fail)"
    spent = without_progress(status)
    if category == FailureClass.PREEMPTED or spent < policy.limit:
        return None
    return f"; gave up after {spent} restarts without progress (spec.restart.limit)"


def without_progress(status: TrainingJobStatus) -> int:
    """Return the restarts, not counting preemptions, since a checkpoint last passed the highest step saved before."""
    saved = _best_saved(status)
    progressed = saved is not None and (status.saved_step is None or saved > status.saved_step)
    return 0 if progressed else status.restarts_without_progress


def count(status: TrainingJobStatus, category: FailureClass | None) -> TrainingJobStatus:
    """Return the status with the counters after one more restart."""
    return status.changed(
        restarts=status.restarts + 1,
        restarts_without_progress=without_progress(status) + (category != FailureClass.PREEMPTED),
        saved_step=_best_saved(status),
    )


def _best_saved(status: TrainingJobStatus) -> int | None:
    saved = [checkpoint.step for checkpoint in status.checkpoints]
    return max([*saved, *([] if status.saved_step is None else [status.saved_step])], default=None)


def _has_failed(pod: Pod, status: TrainingJobStatus) -> bool:
    """Return whether the pod failed and no restart has dealt with that yet.

    While a restart is being carried out, failing pods of older attempts belong to it: they are replaced anyway. The same
    holds while training goes on without the worker. Worker 0 is the exception, since the others cannot go on without it.
    """
    gone = pod.phase == "Failed" or (pod.deleting and pod.phase != "Succeeded")
    needed = status.phase in _COMPLETE and pod.index not in elastic.left_out(status)
    return gone and (needed or pod.attempt == status.attempt or pod.index == 0)


def _lost_workers(current: Pass, status: TrainingJobStatus) -> list[int]:
    if status.phase not in _COMPLETE:
        return []
    gone = (index for index in range(current.spec.workers.count) if index not in current.pods.newest)
    return [index for index in gone if index not in elastic.left_out(status)]


def _explain_loss(current: Pass, index: int, status: TrainingJobStatus) -> Failure:
    known = next((worker for worker in status.workers.pods if worker.index == index), None)
    pod = known.pod if known else f"of worker {index}"
    return postmortem.vanished(index, pod, known.node if known else None, status.attempt, current.now)


def _restart(current: Pass, status: TrainingJobStatus, failure: Failure, gone: set[int]) -> TrainingJobStatus:
    """Return the status with the counters of a restart raised.

    Worker 0 holds the rendezvous: without it there is nothing to rejoin, and all workers start again. Otherwise the others
    stay, wait for the replacement and go on with it.
    """
    attempt, now = status.attempt + 1, current.now
    delay = _delay(now, current.spec.restart, status, failure)
    status = placement.record_failure(count(status, failure.category), failure)
    return _interrupted(status, now + delay).changed(
        attempt=attempt,
        oldest_attempt=attempt if 0 in gone else status.oldest_attempt,
        next_start=now + delay if delay else None,
        failure=failure,
    )


def _replace(now: datetime, status: TrainingJobStatus, failure: Failure) -> TrainingJobStatus:
    """Return the status with a new attempt for workers that training goes on without, which the others do not notice.

    The wait before it grows until one of those workers is let in: if they always fail, pods must not be made without end.
    """
    workers = status.workers
    delay = _doubled(_ELASTIC_BACKOFF, workers.replaced)
    return placement.record_failure(status, failure).changed(
        attempt=status.attempt + 1,
        next_start=now + delay if delay else None,
        failure=failure,
        workers=workers.changed(replaced=workers.replaced + 1),
    )


def _interrupted(status: TrainingJobStatus, begins: datetime) -> TrainingJobStatus:
    """Return the status after the present launch has ended; the wait for the next one counts from `begins`."""
    return status.changed(
        phase=Phase.RESTARTING,
        waiting_since=begins,
        workers=status.workers.changed(training=None, absent=[], replaced=0),
        progress=status.progress.changed(ended_launch=status.progress.launch),
    )


def _delay(now: datetime, policy: RestartSpec, status: TrainingJobStatus, failure: Failure) -> timedelta:
    if failure.category != FailureClass.PREEMPTED:
        return backoff(policy, without_progress(status))
    again = status.failure is not None and now - status.failure.failed_at < _SHORTLY
    return timedelta(seconds=policy.backoff_seconds) if again else timedelta()


def backoff(policy: RestartSpec, restarts: int) -> timedelta:
    """Return the wait before the next restart after so many restarts: none at first, then doubling up to five minutes."""
    return _doubled(policy.backoff_seconds, restarts)


def _doubled(seconds: int, times: int) -> timedelta:
    return timedelta(seconds=min(seconds * 2 ** min(times - 1, 16), _LONGEST_BACKOFF) if times else 0)


def fail(status: TrainingJobStatus, failure: Failure, now: datetime) -> TrainingJobStatus:
    """Return the status of a job that has failed and will not restart."""
    return status.changed(phase=Phase.FAILED, failure=failure, finished_at=now, next_start=None, waiting_since=None)
