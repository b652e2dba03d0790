"""Which nodes a job's pods keep away from: those on which its workers keep failing, unless it can run nowhere else."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from trainwright.api.exit_codes import FailureClass
from trainwright.api.status import AvoidedNode, Failure, Phase, TrainingJobStatus
from trainwright.plan.pods import Pod
from trainwright.plan.types import Event, Pass

_TOO_MANY = 2
"""Failures of classes that may be the node's fault, after which a node is avoided."""
_NODES_FAULT = frozenset({FailureClass.INFRASTRUCTURE, FailureClass.HANG, FailureClass.INTERNAL})
"""Classes that may be a node's fault: a broken device often shows up as an error inside a library."""
_REMEMBERED = 64
_AVOIDED = 16
_PATIENCE = timedelta(seconds=30)
"""How long a pod may be unschedulable before the avoided nodes are used again: another pod may be about to leave."""
_WAITING = (Phase.QUEUED, Phase.PENDING, Phase.RESTARTING)


def record_failure(status: TrainingJobStatus, failure: Failure) -> TrainingJobStatus:
    """Return the status with this failure counted against its node, which is avoided after too many."""
    node = failure.node
    if node is None or failure.category not in _NODES_FAULT:
        return status
    count = status.node_failures.get(node, 0) + 1
    others = [(name, times) for name, times in status.node_failures.items() if name != node]
    failures = dict([*others, (node, count)][-_REMEMBERED:])
    if count < _TOO_MANY or any(known.node == node for known in status.avoided_nodes):
        return status.changed(node_failures=failures)
    reason = f"{count} failures, the last: {failure.message}"
    avoided = AvoidedNode(node=node, reason=reason, since=failure.failed_at)
    return status.changed(node_failures=failures, avoided_nodes=[*status.avoided_nodes, avoided][-_AVOIDED:])


def avoided(status: TrainingJobStatus) -> tuple[str, ...]:
    """Return the nodes that new pods must not use."""
    return tuple(known.node for known in status.avoided_nodes if not known.waived)


def patience_ends(status: TrainingJobStatus) -> datetime | None:
    """Return when avoided nodes may be used again if the job cannot be scheduled without them."""
    if status.phase not in _WAITING or status.waiting_since is None or not avoided(status):
        return None
    return status.waiting_since + _PATIENCE


def waive(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status, with a new attempt that may use the avoided nodes if the job cannot be scheduled without them.

    No failure is counted: only pods that never ran are made again. Unless worker 0 is among them, the other workers stay
    where they are.
    """
    until = patience_ends(status)
    stuck = _without_node(current.pods.newest.values())
    if until is None or current.now < until or not stuck:
        return status
    attempt = status.attempt + 1
    whole = any(pod.index == 0 for pod in stuck)
    return status.changed(
        attempt=attempt,
        oldest_attempt=attempt if whole else status.oldest_attempt,
        avoided_nodes=[known.changed(waived=True) for known in status.avoided_nodes],
        waiting_since=current.now,
    )


def _without_node(pods: Iterable[Pod]) -> list[Pod]:
    return [pod for pod in pods if pod.waiting is not None and pod.waiting[0] == "Unschedulable" and not pod.deleting]


def explain(status: TrainingJobStatus) -> str:
    """Return which nodes are avoided, for the message of a job that waits for its workers; empty if none is."""
    nodes = avoided(status)
    if nodes:
        return f"kept off {_list(nodes)}, where workers failed"
    waived = [known.node for known in status.avoided_nodes if known.waived]
    if waived:
        return f"{_list(waived)} may be used again although workers failed there: no other node had room"
    return ""


def events(before: TrainingJobStatus, status: TrainingJobStatus) -> tuple[Event, ...]:
    """Return an Event for each node that is avoided from now on, and one if nodes may be used again."""
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
