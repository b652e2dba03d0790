"""Which nodes a job's pods keep away from: those on which its workers keep failing, unless it can run nowhere else."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from trainwright.api.exit_codes import FailureClass
from trainwright.api.status import AvoidedNode, Failure, Phase, TrainingJobStatus
from trainwright.plan.types import Event, Observed, Pod

_TOO_MANY = 2
"""So many failures of the node's own kind, and it is avoided."""
_NODES_FAULT = frozenset({FailureClass.INFRASTRUCTURE, FailureClass.HANG, FailureClass.INTERNAL})
"""Classes that may be a node's fault: a device that is broken looks to a library like a defect."""
_REMEMBERED = 64
_AVOIDED = 16
_PATIENCE = timedelta(seconds=30)
"""How long a pod may be unschedulable before the avoided nodes are used again: another pod may be about to leave."""
_WAITING = (Phase.QUEUED, Phase.PENDING, Phase.RESTARTING)


def blame(status: TrainingJobStatus, failure: Failure) -> dict[str, Any]:
    """Return what the status says of nodes after this failure."""
    node = failure.node
    if node is None or failure.category not in _NODES_FAULT:
        return {}
    count = status.node_failures.get(node, 0) + 1
    others = [(name, times) for name, times in status.node_failures.items() if name != node]
    failures = dict([*others, (node, count)][-_REMEMBERED:])
    if count < _TOO_MANY or any(known.node == node for known in status.avoided_nodes):
        return {"node_failures": failures}
    reason = f"{count} failures, the last: {failure.message}"
    avoided = AvoidedNode(node=node, reason=reason, since=failure.failed_at)
    return {"node_failures": failures, "avoided_nodes": [*status.avoided_nodes, avoided][-_AVOIDED:]}


def avoided(status: TrainingJobStatus) -> tuple[str, ...]:
    """Return the nodes that new pods keep away from."""
    return tuple(known.node for known in status.avoided_nodes if not known.waived)


def patience_ends(status: TrainingJobStatus) -> datetime | None:
    """Return when nodes that are avoided are used again if the job cannot be scheduled without them."""
    if status.phase not in _WAITING or status.waiting_since is None or not avoided(status):
        return None
    return status.waiting_since + _PATIENCE


def relent(observed: Observed, status: TrainingJobStatus, pods: Iterable[Pod]) -> TrainingJobStatus:
    """Return the status, with a new attempt that may use the avoided nodes if the job cannot be scheduled without them.

    No failure is counted: pods that never ran are made again under other terms. Without worker 0 among them the others
    stay where they are.
    """
    until = patience_ends(status)
    stuck = _without_node(pods)
    if until is None or observed.now < until or not stuck:
        return status
    attempt = status.attempt + 1
    whole = any(pod.index == 0 for pod in stuck)
    return status.model_copy(
        update={
            "attempt": attempt,
            "oldest_attempt": attempt if whole else status.oldest_attempt,
            "avoided_nodes": [known.model_copy(update={"waived": True}) for known in status.avoided_nodes],
            "waiting_since": observed.now,
        }
    )


def _without_node(pods: Iterable[Pod]) -> list[Pod]:
    return [pod for pod in pods if pod.waiting is not None and pod.waiting[0] == "Unschedulable" and not pod.deleting]


def explain(status: TrainingJobStatus) -> str:
    """Return what is to be said of avoided nodes while the job waits for its workers; empty if there is nothing."""
    shunned = avoided(status)
    if shunned:
        return f"kept off {_list(shunned)}, where workers failed"
    waived = [known.node for known in status.avoided_nodes if known.waived]
    if waived:
        return f"{_list(waived)} may be used again although workers failed there: no other node had room"
    return ""


def events(before: TrainingJobStatus, status: TrainingJobStatus) -> tuple[Event, ...]:
    """Return what is worth an Event: nodes that are avoided from now on, or no longer."""
    were, are = set(avoided(before)), set(avoided(status))
    waived = {known.node for known in status.avoided_nodes if known.waived}
    reasons = {known.node: known.reason for known in status.avoided_nodes}
    news = [Event("NodeAvoided", f"{node}: {reasons[node]}", warning=True) for node in sorted(are - were)]
    if waived & were:
        news.append(Event("NodeAllowed", explain(status)))
    return tuple(news)


def _list(nodes: Iterable[str]) -> str:
    names = sorted(nodes)
    return ("node " if len(names) == 1 else "nodes ") + ", ".join(names)
