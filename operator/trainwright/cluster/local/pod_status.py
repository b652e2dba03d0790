"""Builds the pod status that a kubelet would report from the state of the process. No I/O."""

import copy

from trainwright.api.exit_codes import SIGNAL_BASE
from trainwright.api.names import WORKER_CONTAINER
from trainwright.cluster.port import Manifest


def pending(pod: Manifest, reason: str, message: str = "") -> Manifest:
    """Return the pod as one that waits."""
    waiting = {"reason": reason, "message": message} if message else {"reason": reason}
    return _with(pod, "Pending", {"waiting": waiting}, ready=False)


def running(pod: Manifest, started_at: str) -> Manifest:
    """Return the pod as one whose process runs."""
    changed = _with(pod, "Running", {"running": {"startedAt": started_at}}, ready=True)
    changed["status"]["startTime"] = started_at
    return changed


def ended(pod: Manifest, exit_code: int, message: str, finished_at: str) -> Manifest:
    """Return the pod as one whose process has ended with this exit code (128 + n for signal n)."""
    terminated = {
        "exitCode": exit_code,
        "reason": "Error" if exit_code else "Completed",
        "startedAt": (pod.get("status") or {}).get("startTime", finished_at),
        "finishedAt": finished_at,
    }
    if message:
        terminated["message"] = message
    if exit_code > SIGNAL_BASE:
        terminated["signal"] = exit_code - SIGNAL_BASE
    return _with(pod, "Failed" if exit_code else "Succeeded", {"terminated": terminated}, ready=False)


def _with(pod: Manifest, phase: str, state: Manifest, *, ready: bool) -> Manifest:
    changed = copy.deepcopy(pod)
    status = changed.setdefault("status", {})
    status["phase"] = phase
    status["conditions"] = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Ready", "status": str(ready)},
    ]
    status["containerStatuses"] = [
        {"name": WORKER_CONTAINER, "ready": ready, "started": ready, "restartCount": 0, "state": state}
    ]
    return changed
