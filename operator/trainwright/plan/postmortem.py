"""Why a worker failed: the one that failed first, what it was, and what to do about it."""

from collections.abc import Sequence
from datetime import datetime

from trainwright.api.exit_codes import SIGNAL_BASE, FailureClass, classify
from trainwright.api.status import Failure
from trainwright.api.worker import Cause
from trainwright.plan.pods import NEVER_STARTED, Pod, WorkerPods

_SIGKILL = 9
_SIGTERM = 15

_HINTS = {
    FailureClass.OUT_OF_MEMORY: "Ask for more memory (spec.workers.resources), or use a smaller "
    "spec.training.globalBatchSize or more workers.",
    FailureClass.NON_FINITE: "Lower spec.optimizer.learningRate, set spec.training.gradientClipping, or use fp32.",
}
_DISK_HINT = (
    "Raise the limit (ephemeral-storage in spec.workers.resources.limits, or sizeLimit in spec.workers.volumes), or have the "
    "workers write less to their own disk: without a volume or spec.checkpoint.uri, checkpoints lie there too."
)

_START_HINT = (
    "Look at the container runtime of that node (a GPU driver that does not fit it, for example). If it is the same on every "
    "node, at the entrypoint of spec.workers.image."
)
NO_WORKER_HINT = (
    "Build spec.workers.image on Trainwright's worker image, and keep its ENTRYPOINT (python -m trainwright_worker)."
)
_NODE_MEMORY_HINT = (
    "Set spec.workers.resources.requests.memory to what a worker uses: a node that runs out of memory first evicts pods that use "
    "more than they have requested."
)
_LOW_ON_MEMORY = "low on resource: memory"
_LIMIT_RANGE = "comes from the namespace's LimitRange, because spec.workers.resources.limits.memory is not set"

_OOM_KILLED = "OOMKilled"
_MAY_BE_MEMORY = frozenset({None, FailureClass.OUT_OF_MEMORY, FailureClass.INFRASTRUCTURE, FailureClass.INTERNAL})
"""Classes with which a worker may end after the OOM killer ended it or one of its child processes."""
_SECONDARY = frozenset({FailureClass.INFRASTRUCTURE, FailureClass.PREEMPTED})
"""Classes with which a worker may end because another worker failed."""


def explain(pods: Sequence[Pod], attempt: int, now: datetime) -> Failure:
    """Return the post-mortem of the pod that failed first among these failed or vanishing ones.

    The workers know whose failure came first. Times are in whole seconds, from clocks that differ.
    """
    named = {pod.termination.worker for pod in pods if pod.termination is not None}
    first = min(
        pods,
        key=lambda pod: (categorize(pod) in _SECONDARY, pod.index not in named, pod.finished_at or now, pod.index),
    )
    return describe(first, attempt, now)


def describe(pod: Pod, attempt: int, now: datetime) -> Failure:
    """Return the post-mortem of one pod."""
    category = categorize(pod)
    own = pod.termination
    return Failure(
        category=category,
        message=_message(pod),
        hint=_hint(pod, category),
        attempt=attempt,
        worker=pod.index,
        rank=own.rank if own else None,
        pod=pod.name,
        node=pod.node,
        exit_code=pod.exit_code,
        reason=None if pod.reason == _OOM_KILLED and not _ran_out_of_memory(pod) else pod.reason,
        exception=own.exception if own else None,
        traceback=own.traceback if own else None,
        failed_at=now,
    )


def _hint(pod: Pod, category: FailureClass) -> str | None:
    if _overran_disk(pod):
        return _DISK_HINT
    if pod.reason in NEVER_STARTED:
        return _START_HINT
    if pod.disrupted is not None and _LOW_ON_MEMORY in pod.disrupted:
        return _NODE_MEMORY_HINT
    said = pod.termination.hint if pod.termination is not None else None
    hint = said or _HINTS.get(category)
    if category != FailureClass.OUT_OF_MEMORY or hint is None or "memory limit" not in pod.defaults:
        return hint
    return f"{hint.rstrip('.')}. The worker's limit of {pod.limits.get('memory')} {_LIMIT_RANGE}."


def no_worker(pod: Pod, attempt: int, now: datetime) -> Failure:
    """Return the post-mortem of a container that ended with code 0 without a termination message: it is not our worker."""
    image = f"the image {pod.image}" if pod.image else "its image"
    message = f"{pod.place} ended with code 0 and no termination message: {image} does not start Trainwright's worker"
    failure = describe(pod, attempt, now)
    return failure.changed(category=FailureClass.USER_ERROR, message=message, hint=NO_WORKER_HINT)


def in_place(cause: Cause, pods: WorkerPods, attempt: int, at: datetime) -> Failure:
    """Return the post-mortem of processes that their workers have started again by themselves.

    Args:
        cause: What the workers say of it.
        pods: The pods that count.
        attempt: The attempt that goes on.
        at: When it was heard of.
    """
    pod = None if cause.worker is None else pods.newest.get(cause.worker)
    return Failure(
        category=cause.category or FailureClass.INTERNAL,
        message=cause.message,
        hint=cause.hint,
        attempt=attempt,
        worker=cause.worker,
        rank=cause.rank,
        pod=None if pod is None else pod.name,
        node=None if pod is None else pod.node,
        exit_code=cause.exit_code,
        exception=cause.exception,
        traceback=cause.traceback,
        failed_at=at.replace(microsecond=0),
    )


def vanished(index: int, name: str, node: str | None, attempt: int, now: datetime) -> Failure:
    """Return the post-mortem of a worker whose pod has disappeared without a termination message."""
    return Failure(
        category=FailureClass.INFRASTRUCTURE,
        message=f"worker {index} is gone: its pod {name} was deleted by force, with its node, or while no operator ran",
        attempt=attempt,
        worker=index,
        pod=name,
        node=node,
        failed_at=now,
    )


def categorize(pod: Pod) -> FailureClass:
    """Return the class of a failed or vanishing pod."""
    if _ran_out_of_memory(pod):
        return FailureClass.OUT_OF_MEMORY
    if _overran_disk(pod):
        return FailureClass.USER_ERROR
    if pod.silent or pod.reason in NEVER_STARTED:
        return FailureClass.INFRASTRUCTURE
    if pod.disrupted is not None or pod.reason in ("Preempting", "Evicted", "NodeShutdown", "Terminated"):
        return FailureClass.PREEMPTED
    return _own_class(pod) or (FailureClass.PREEMPTED if pod.deleting else FailureClass.INFRASTRUCTURE)


def _own_class(pod: Pod) -> FailureClass | None:
    """Return the class from the worker's termination message or, without one, from its exit code."""
    if pod.termination is not None and pod.termination.category is not None:
        return pod.termination.category
    return classify(pod.exit_code) if pod.exit_code else None


def _ran_out_of_memory(pod: Pod) -> bool:
    """Return whether the kernel ended the worker because it exceeded its memory limit.

    The kubelet says so of every container in which the kernel has ever ended a process. A worker that has lost a helper to it
    and is told to stop later says what it ended for; one that fails for the loss knows nothing of the cause.
    """
    return pod.reason == _OOM_KILLED and _own_class(pod) in _MAY_BE_MEMORY


def _overran_disk(pod: Pod) -> bool:
    """Return whether the pod was evicted for using more of its node's disk than its own limits allow.

    Whom a node evicts for its own sake has the condition DisruptionTarget. Whom it does not even admit has none either, but
    nothing of that pod has ever run.
    """
    return pod.reason == "Evicted" and pod.disrupted is None and pod.exit_code is not None


def _message(pod: Pod) -> str:
    cause = _external_cause(pod)
    if cause is not None:
        return f"{pod.place} {cause}"
    if pod.termination is not None and pod.termination.message:
        return f"{pod.place}: {pod.termination.message}"
    if pod.exit_code is not None and pod.exit_code > SIGNAL_BASE:
        return f"{pod.place} was ended by {_signal(pod.exit_code - SIGNAL_BASE)}"
    if pod.exit_code:
        return f"{pod.place} exited with code {pod.exit_code}"
    if pod.deleting:
        return f"the pod of {pod.place} is being deleted"
    return f"{pod.place} failed: {pod.message or pod.reason or 'the cluster gives no reason'}"


def _external_cause(pod: Pod) -> str | None:
    """Return what the kernel or the cluster did to the worker, for messages; None if the worker ended by itself."""
    if _ran_out_of_memory(pod):
        return f"was killed by the kernel: {_memory(pod)}"
    if pod.silent:
        return "is lost: its node does not answer any more"
    if pod.disrupted is not None:
        return f"is taken away by the cluster: {pod.disrupted}"
    if pod.reason in NEVER_STARTED:
        return f"could not be started: {pod.message.strip()}"
    if pod.reason == "Evicted":
        return f"was evicted: {pod.message.strip()}"
    return None


def _memory(pod: Pod) -> str:
    """Return how much memory a worker had that the kernel has killed for it, and who set the limit if the job did not."""
    limit = pod.limits.get("memory")
    if limit is None:
        return "its node had no memory left; the worker has no limit of its own"
    origin = f", which {_LIMIT_RANGE}" if "memory limit" in pod.defaults else ""
    return f"it used more memory than its limit of {limit}{origin}"


def _signal(number: int) -> str:
    return {_SIGKILL: "SIGKILL", _SIGTERM: "SIGTERM"}.get(number, f"signal {number}")
