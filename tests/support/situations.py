"""Situations to decide about, told in few words."""

import json
from dataclasses import replace
from datetime import UTC, datetime

from trainwright.api.exit_codes import ExitCode, classify
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import ConditionType, Results, TrainingJobStatus
from trainwright.api.worker import Termination, WorkerPhase, WorkerReport
from trainwright.build import Settings
from trainwright.plan import Job, Observed, Plan, Pod, Received, plan

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = Settings(worker_image="worker:test", reports_url="https://operator:8443", operator_namespace="system")
UID = "11112222-3333-4444-5555-666677778888"


def spec(**fields) -> TrainingJobSpec:
    raw = {
        "model": {"name": "mlp"},
        "dataset": {"builtin": {"name": "digits"}},
        "training": {"epochs": 3, "globalBatchSize": 60},
        **fields,
    }
    return TrainingJobSpec.model_validate_json(json.dumps(raw))


def job(status: TrainingJobStatus | None = None, workers: int = 2, least: int | None = None, **fields) -> Job:
    asked = spec(workers={"count": workers, "minCount": least}, **fields)
    return Job(
        namespace="team",
        name="digits",
        uid=UID,
        generation=1,
        created_at=NOW,
        deleting=False,
        spec=asked,
        status=status or TrainingJobStatus(),
        time_to_live=asked.ttl_seconds_after_finished,
    )


def observed(job: Job, *pods: Pod, report: WorkerReport | None = None, now: datetime = NOW, **fields) -> Observed:
    received = Received(report, fields.pop("report_at", now)) if report else None
    waiting = {index: Received(*said) for index, said in fields.pop("waiting_reports", {}).items()}
    values = {"rejection": None, "settings": SETTINGS, "waiting_reports": waiting, **fields}
    return Observed(job=job, pods=pods, received=received, now=now, **values)


def pod(index: int = 0, attempt: int = 1, phase: str = "Running", **fields) -> Pod:
    return Pod(
        name=f"digits-{index}-{attempt}",
        uid=f"uid-{index}-{attempt}",
        index=index,
        attempt=attempt,
        phase=phase,
        node=f"node-{index}",
        **fields,
    )


def failed(index: int = 0, attempt: int = 1, code: int = ExitCode.INFRASTRUCTURE, **fields) -> Pod:
    said = Termination(exit_code=code, category=classify(code), message=f"ended with {code}")
    ending = {"exit_code": code, "reason": "Error", "termination": said, "finished_at": NOW, **fields}
    return pod(index, attempt, "Failed", **ending)


def report(step: int = 10, attempt: int = 1, launch: str = "a", phase: WorkerPhase = WorkerPhase.TRAINING, **fields):
    values = {"total_steps": 100, "total_epochs": 3, "steps_per_second": 5.0, "samples_per_second": 300.0, **fields}
    return WorkerReport(
        uid=UID, attempt=attempt, launch=launch, sequence=step, phase=phase, step=step, loss=1.5, **values
    )


def status_after(*plans: Plan) -> TrainingJobStatus:
    return next(p.status for p in reversed(plans) if p.status is not None)


def running_job(step: int = 10, workers: int = 2, **fields) -> Job:
    """Return a job that has started and taken steps, as its status was written."""
    started = job(workers=workers, **fields)
    pods = [pod(i) for i in range(workers)]
    first = plan(observed(started))
    second = plan(observed(replace(started, status=status_after(first)), *pods, report=report(step)))
    return replace(started, status=status_after(first, second))


def kinds(plan: Plan) -> list[str]:
    """Return the kinds of what a plan creates."""
    return [manifest["kind"] for manifest in plan.create]


def names(plan: Plan) -> list[str]:
    """Return the names of the pods that a plan creates."""
    return [manifest["metadata"]["name"] for manifest in plan.create if manifest["kind"] == "Pod"]


def truth(status: TrainingJobStatus, kind: ConditionType) -> str | None:
    """Return the status of a condition; None if there is none of that type."""
    condition = status.condition(kind)
    return condition.status if condition else None


RESULTS = Results(folder="/checkpoints/digits-u/results")
LAST = report(100, phase=WorkerPhase.FINISHED, results=RESULTS)
SUCCEEDED = pod(0, phase="Succeeded", exit_code=0, termination=Termination(exit_code=0, report=LAST), finished_at=NOW)
"""Worker 0, after it has done everything."""
