"""A cluster in memory with which something goes wrong once: at one call, or with one event of its watch."""

import copy
from collections.abc import Awaitable, Callable
from typing import Any

from memory_cluster import MemoryCluster

from trainwright.api.names import KIND, LABEL_ATTEMPT, LABEL_WORKER
from trainwright.cluster.port import ClusterError, JobKey, Listing, Manifest
from trainwright.cluster.rest import translate

Operation = Callable[[], Awaitable[Any]]
CallFault = Callable[["FaultyCluster", str, Operation], Awaitable[Any]]
"""Answers a call in place of the cluster, given the call's name and what it would do."""
EventFault = Callable[["FaultyCluster", Manifest, bool], None]
"""Passes an event on in its own way, or not at all."""


class FaultyCluster(MemoryCluster):
    """See the module. It also watches over what it is asked for: see `violations`.

    Args:
        fault: What goes wrong at a call.
        event_fault: What goes wrong with an event.
        at: Number of that call or event, counted from 0.

    Attributes:
        calls: Every call so far, by the name of the port's method.
        events: Number of events so far.
        violations: What must never be asked of a cluster: a pod made twice, or beside one that does the same work.
    """

    def __init__(self, fault: CallFault | None = None, event_fault: EventFault | None = None, at: int = -1) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.events = 0
        self.violations: list[str] = []
        self._fault, self._event_fault, self._at = fault, event_fault, at
        self._past: list[tuple[int, list[Manifest]]] = []
        self._postponed: list[tuple[int, Manifest, bool]] = []

    # The port.

    async def list_jobs(self) -> Listing:
        return await self._call("list_jobs", super().list_jobs)

    async def list_pods(self, key: JobKey | None = None) -> Listing:
        parent = super()
        return await self._call("list_pods", lambda: parent.list_pods(key))

    async def create(self, manifest: Manifest) -> Manifest:
        parent = super()
        return await self._call("create", lambda: parent.create(manifest))

    async def delete_pod(self, key: JobKey, name: str, uid: str, grace_seconds: int | None = None) -> None:
        parent = super()
        await self._call("delete_pod", lambda: parent.delete_pod(key, name, uid, grace_seconds))

    async def write_status(self, job: Manifest, status: Manifest) -> Manifest:
        parent = super()
        return await self._call("write_status", lambda: parent.write_status(job, status))

    async def _call(self, name: str, operation: Operation) -> Any:
        number = len(self.calls)
        self.calls.append(name)
        if number == self._at and self._fault is not None:
            return await self._fault(self, name, operation)
        return await operation()

    async def _wrote(self, verb: str, kind: str, name: str) -> None:
        if (verb, kind) == ("create", "Pod"):
            self._check(name)
        await super()._wrote(verb, kind, name)

    def _check(self, name: str) -> None:
        if ("create", "Pod", name) in self.writes:
            self.violations.append(f"{name} is made twice")
        pods = [item for item in self.objects._objects.values() if item["kind"] == "Pod" and _is_live(item)]
        labels = {pod["metadata"]["name"]: pod["metadata"]["labels"] for pod in pods}
        oldest = (self.job().get("status") or {}).get("oldestAttempt", 0)
        for other in set(labels) - {name}:
            same_work = labels[other][LABEL_WORKER] == labels[name][LABEL_WORKER]
            if same_work or int(labels[other][LABEL_ATTEMPT]) < oldest:
                self.violations.append(f"{name} is made while {other} lives")

    # What is told of changes.

    def _tell(self, manifest: Manifest, *, deleted: bool = False) -> None:
        # Objects in memory are replaced, never changed: what was can be kept without a copy.
        self._past.append((self.objects.version, list(self.objects._objects.values())))
        super()._tell(manifest, deleted=deleted)

    def _pass_on(self, manifest: Manifest, *, deleted: bool) -> None:
        number = self.events
        self.events += 1
        if number == self._at and self._event_fault is not None:
            self._event_fault(self, manifest, deleted)
        else:
            self.pass_on(manifest, deleted=deleted)
        due = [event for event in self._postponed if event[0] < self.events]
        self._postponed = [event for event in self._postponed if event[0] >= self.events]
        for _, late, was_deleted in due:
            self.pass_on(late, deleted=was_deleted)

    # What faults do.

    def pass_on(self, manifest: Manifest, *, deleted: bool) -> None:
        """Pass an event on."""
        super()._pass_on(manifest, deleted=deleted)

    def postpone(self, manifest: Manifest, *, deleted: bool, events: int) -> None:
        """Pass an event on after so many others."""
        self._postponed.append((self.events + events - 1, manifest, deleted))

    def earlier(self, name: str, changes: int) -> Listing:
        """Return what this listing showed so many changes ago."""
        version, past = self._past[-changes] if len(self._past) >= changes else (0, [])
        kind = KIND if name == "list_jobs" else "Pod"
        return Listing(copy.deepcopy([item for item in past if item["kind"] == kind]), version)


def answers(status: int, reason: str) -> CallFault:
    """Return the fault of an API server that answers so, and does nothing."""

    async def fault(_cluster: FaultyCluster, _name: str, _operation: Operation) -> Any:
        raise translate(status, reason, f"injected: {reason}")

    return fault


async def no_answer(_cluster: FaultyCluster, _name: str, _operation: Operation) -> Any:
    """The request never arrives."""
    raise ClusterError("no answer from the API server: injected")


async def answer_lost(_cluster: FaultyCluster, _name: str, operation: Operation) -> Any:
    """The request is carried out, and its answer gets lost."""
    await operation()
    raise ClusterError("no answer from the API server: injected")


def stale_listing(changes: int) -> CallFault:
    """Return the fault of a listing that shows what was so many changes ago."""

    async def fault(cluster: FaultyCluster, name: str, operation: Operation) -> Any:
        found = await operation()
        return cluster.earlier(name, changes) if name in ("list_jobs", "list_pods") else found

    return fault


def dropped(_cluster: FaultyCluster, _manifest: Manifest, _deleted: bool) -> None:  # noqa: FBT001
    """The event is lost."""


def repeated(cluster: FaultyCluster, manifest: Manifest, deleted: bool) -> None:  # noqa: FBT001
    """The event comes twice, the second time late."""
    cluster.pass_on(manifest, deleted=deleted)
    cluster.postpone(manifest, deleted=deleted, events=3)


def belated(cluster: FaultyCluster, manifest: Manifest, deleted: bool) -> None:  # noqa: FBT001
    """The event comes after those that followed it."""
    cluster.postpone(manifest, deleted=deleted, events=2)


def _is_live(pod: Manifest) -> bool:
    return pod["status"]["phase"] in ("Pending", "Running") and "deletionTimestamp" not in pod["metadata"]
