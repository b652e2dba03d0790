"""Which pods a job has, which it should have, and the difference."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Phase, TrainingJobStatus, Workers, WorkerStatus
from trainwright.build import Group, Seat, config_map, group_of, network_policy, pod_group, service, worker_pod
from trainwright.build.naming import companion_name
from trainwright.plan import placement
from trainwright.plan.types import Job, Manifest, Observed, Pod, PodDeletion

LISTED_WORKERS = 100
KEPT_ATTEMPTS = 2
"""Failed pods of so many newest attempts stay for their logs; older ones are deleted."""
LINGER = timedelta(seconds=30)
"""How long workers may take to end by themselves after the job succeeded."""
REPLACED = "PodReplaced"
"""Reason of a failure whose pod still runs: nothing but its deletion ends it."""
_ENDED = ("Succeeded", "Failed")
TERMINATION_SLACK = timedelta(seconds=5)
"""How long past its grace period a pod is waited for. After that its node is taken for dead."""


@dataclass(frozen=True)
class Crew:
    """The pods that speak for the workers now.

    Attributes:
        newest: By worker index, the newest pod not older than the status' oldest attempt.
        superseded: All other pods of the job.
    """

    newest: Mapping[int, Pod]
    superseded: tuple[Pod, ...]

    @property
    def running(self) -> int:
        """Number of workers whose pod runs or has done its work."""
        return sum(self.runs(index) for index in self.newest)

    def runs(self, index: int) -> bool:
        """Return whether a worker's pod runs or has done its work."""
        pod = self.newest.get(index)
        return pod is not None and pod.phase in ("Running", "Succeeded") and not pod.deleting

    @property
    def all_pods(self) -> tuple[Pod, ...]:
        """Every pod."""
        return (*self.newest.values(), *self.superseded)


def muster(pods: Iterable[Pod], status: TrainingJobStatus) -> Crew:
    """Sort a job's pods into those that count and those that a later one has replaced."""
    newest: dict[int, Pod] = {}
    superseded: list[Pod] = []
    for pod in sorted(pods, key=lambda pod: (pod.index, pod.attempt)):
        if pod.attempt < status.oldest_attempt or _given_up(pod, status):
            superseded.append(pod)
            continue
        if pod.index in newest:
            superseded.append(newest[pod.index])
        newest[pod.index] = pod
    return Crew(newest, tuple(superseded))


def count(crew: Crew, status: TrainingJobStatus) -> Workers:
    """Return the workers as the status lists them, counted anew."""
    listed = [
        WorkerStatus(
            index=index,
            pod=pod.name,
            node=pod.node,
            phase=_phase(pod, status),
            reason=_reason(pod),
        )
        for index, pod in sorted(crew.newest.items())[:LISTED_WORKERS]
    ]
    failed = sum(pod.phase == "Failed" for pod in crew.newest.values())
    return status.workers.model_copy(update={"ready": crew.running, "failed": failed, "pods": listed})


def _phase(pod: Pod, status: TrainingJobStatus) -> str:
    """Return what the status says of a pod. The job succeeds after every worker has: those that still run are about to end."""
    if pod.deleting:
        return "Terminating"
    return "Succeeded" if status.phase == Phase.SUCCEEDED and pod.phase == "Running" else pod.phase


def speaks_of_the_living(status: TrainingJobStatus) -> bool:
    """Return whether the status lists a worker that has not ended."""
    return any(worker.phase not in _ENDED for worker in status.workers.pods)


def _reason(pod: Pod) -> str | None:
    if pod.waiting is not None:
        return pod.waiting[0]
    return pod.reason if pod.phase == "Failed" else None


def to_create(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> tuple[Manifest, ...]:
    """Return the children that are missing, those first that the others need.

    A worker gets a pod when it has none that lives or has done its work. Nothing is created before the backoff is over, nor
    while a former worker 0 may still be saving what the new one should start from, nor what the platform does not allow.
    """
    if barred(observed, spec) is not None:
        return ()
    if status.next_start is not None and observed.now < status.next_start:
        return ()
    if any(_may_be_saving(pod, observed) for pod in crew.superseded):
        return ()
    missing = without_pod(spec, status, crew)
    if spec.scheduling.in_kueue:
        # Until a member has ended, Kueue takes the one that replaces it for one too many, and deletes it.
        missing = [index for index in missing if not _is_ending(crew.newest.get(index))]
    if not missing and not _lacks_config(crew, observed.job):
        return ()
    if spec.workers.min_count is not None and 0 in missing:
        missing = [0]  # Who comes first finds room first, and without worker 0 the others cannot begin.
    job, settings = observed.job, observed.settings
    identity = (job.namespace, job.name, job.uid)
    # Also for a single worker: no pod starts without them, and somebody may have deleted them since.
    config = config_map(*identity, spec, settings)
    companions = [config]
    if spec.workers.count > 1:
        companions.append(service(*identity, settings))
    if settings.network_policy:
        companions.append(network_policy(*identity, settings))
    group = _group(observed, spec, status, crew)
    if not crew.newest:
        told = pod_group(*identity, spec, group) if group is not None else None
        companions += [] if told is None else [told]
    shunned = placement.avoided(status)
    seats = (Seat(index, status.attempt, status.oldest_attempt, shunned, group) for index in missing)
    alike = replace(settings, worker_image=_image(crew) or settings.worker_image)
    pods = (worker_pod(*identity, spec, alike, config["metadata"]["name"], seat) for seat in seats)
    return (*companions, *pods)


def barred(observed: Observed, spec: TrainingJobSpec) -> tuple[str, str] | None:
    """Return why no pod may be made for this job, as (reason, message), or None. Pods that run already run on."""
    allowed = {"default", *observed.settings.service_accounts}
    account = spec.workers.service_account_name
    if account is None or account in allowed:
        return None
    listed = ", ".join(sorted(allowed))
    text = f"spec.workers.serviceAccountName: {account} is not one that the platform allows ({listed})"
    return "ServiceAccountNotAllowed", text


def without_pod(spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> list[int]:
    """Return the workers that have no pod which lives or has done its work."""
    return [index for index in range(spec.workers.count) if _needs_pod(crew.newest.get(index), status)]


def _image(crew: Crew) -> str | None:
    """Return the image of the workers that live on: who joins them shares it, whatever an upgrade has made the default."""
    return next((pod.image for _, pod in sorted(crew.newest.items()) if pod.live), None)


def _group(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> Group | None:
    """Return the group that new pods join: the one of those that live, or none where that was made on other terms."""
    job = observed.job
    group = group_of(job.name, job.uid, spec, status.oldest_attempt, served=observed.groups_served)
    others = {pod.group for pod in crew.newest.values()}
    return group if group is not None and others <= {group.name} else None


def step_aside(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> TrainingJobStatus:
    """Return the status, in a later attempt if a former job's pod holds a name that is needed and will not go.

    A job that is deleted and created again uses the same names, for which it waits. On a dead node that is for ever.
    """
    needed = without_pod(spec, status, crew)
    stuck = [pod for pod in observed.strangers if pod.deleting and not pod.ended and is_over(pod, observed.now)]
    if not any(pod.index in needed and pod.attempt == status.attempt for pod in stuck):
        return status
    return status.model_copy(update={"attempt": max(pod.attempt for pod in stuck) + 1})


def _needs_pod(pod: Pod | None, status: TrainingJobStatus) -> bool:
    return pod is None or (pod.attempt < status.attempt and (pod.phase == "Failed" or pod.deleting))


def _lacks_config(crew: Crew, job: Job) -> bool:
    """Return whether a pod waits to mount the job's ConfigMap: somebody has deleted it since."""
    name = companion_name(job.name, job.uid)
    warnings = (pod.warning for pod in crew.newest.values() if pod.starting)
    return any(warning is not None and name in warning[1] for warning in warnings)


def _is_ending(pod: Pod | None) -> bool:
    return pod is not None and pod.deleting and not pod.ended


def _may_be_saving(pod: Pod, observed: Observed) -> bool:
    return pod.index == 0 and pod.deleting and not is_over(pod, observed.now)


def is_over(pod: Pod, now: datetime) -> bool:
    """Return whether the pod's processes have ended, or must have: on a dead node it stays in Terminating for ever."""
    return pod.ended or (pod.deletes_at is not None and now >= pod.deletes_at + TERMINATION_SLACK)


def terminations(crew: Crew, now: datetime) -> list[datetime]:
    """Return when the pods that are still terminating are not waited for any longer."""
    leaving = (pod for pod in crew.all_pods if not is_over(pod, now))
    return [pod.deletes_at + TERMINATION_SLACK for pod in leaving if pod.deletes_at is not None]


def to_delete(observed: Observed, status: TrainingJobStatus, crew: Crew) -> tuple[PodDeletion, ...]:
    """Return the pods that must go: those a restart left behind, all that live once the job must not run."""
    if status.phase == Phase.SUCCEEDED:
        overdue = status.finished_at is not None and observed.now >= status.finished_at + LINGER
        doomed: Iterable[Pod] = (pod for pod in crew.all_pods if pod.live and overdue)
    elif status.phase in (Phase.FAILED, Phase.SUSPENDED) or status.budget_spent_at is not None:
        doomed = (pod for pod in crew.all_pods if pod.live)
    else:
        doomed = (
            *(pod for pod in crew.superseded if not pod.deleting and (pod.live or _forgotten(pod, status))),
            *(pod for pod in crew.newest.values() if _waits_in_vain(pod, status)),
        )
    return tuple(PodDeletion(pod.name, pod.uid) for pod in doomed)


def _waits_in_vain(pod: Pod, status: TrainingJobStatus) -> bool:
    """Return whether the pod has no node yet and an attempt since then has set other terms for finding one.

    Worker 0 is never replaced alone.
    """
    return pod.live and pod.node is None and pod.attempt < status.attempt and pod.index != 0


def _given_up(pod: Pod, status: TrainingJobStatus) -> bool:
    """Return whether the pod was found to be of no use although it runs: it counts as replaced."""
    failure = status.failure
    if failure is None or failure.reason != REPLACED:
        return False
    return pod.name == failure.pod and pod.attempt < status.attempt


def _forgotten(pod: Pod, status: TrainingJobStatus) -> bool:
    return pod.attempt <= status.attempt - KEPT_ATTEMPTS
