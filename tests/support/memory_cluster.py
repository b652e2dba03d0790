"""A cluster in memory whose pods do what a test says, whose watch can lag, and which can die after any write."""

import asyncio
from collections.abc import Callable
from typing import Any

from trainwright.api.names import KIND, LABEL_ATTEMPT, LABEL_JOB, LABEL_WORKER
from trainwright.cluster.local.objects import Objects, identity, now_text
from trainwright.cluster.port import (
    ClusterError,
    JobKey,
    Listing,
    Manifest,
    NotFoundError,
    PendingWorkload,
    PodIdentity,
    Sink,
)

Fate = Callable[[int, int], int | None]
"""The exit code of worker `index` of `attempt`; None while it runs on."""


class MemoryCluster:
    """Implements the Cluster port.

    Attributes:
        writes: Every write so far, as (verb, kind, name).
        die_after: Number of writes after which the caller is dead: that write is done, but nothing ever answers again.
        lagging: Whether events are held back until `deliver`.
        refuse: Raises for manifests that must not be created.
        warnings: By UID of a pod, the newest warning about it.
        inquiries: How often somebody asked for a warning.
        served: What else there is, as (API version, resource).
        lines: By (namespace, queue), what waits in it.
        classes: The TrainingClasses.
        labels: By namespace, its labels.
        questions: How often somebody asked for what waits in a queue.
        waits: Whether worker `index` of `attempt` finds no place.
    """

    def __init__(self) -> None:
        self.objects = Objects()
        self.writes: list[tuple[str, str, str]] = []
        self.die_after: int | None = None
        self.lagging = False
        self.refuse: Callable[[Manifest], None] = lambda _: None
        self.waits: Callable[[int, int], bool] = lambda _index, _attempt: False
        self.fail_next: ClusterError | None = None
        self.sink: Sink | None = None
        self.warnings: dict[str, tuple[str, str]] = {}
        self.inquiries = 0
        self.served: set[tuple[str, str]] = set()
        self.lines: dict[tuple[str, str], list[PendingWorkload]] = {}
        self.classes: list[Manifest] = []
        self.labels: dict[str, dict[str, str]] = {}
        self.questions = 0
        self.leases: dict[tuple[str, str], str] = {}
        self._late: list[tuple[Manifest, bool]] = []

    # The port.

    async def list_jobs(self) -> Listing:
        await self._answer()
        return Listing(self.objects.select(KIND, {}), self.objects.version)

    async def list_pods(self, key: JobKey | None = None) -> Listing:
        await self._answer()
        name, namespace = (None, None) if key is None else (key.name, key.namespace)
        return Listing(self.objects.select("Pod", {LABEL_JOB: name}, namespace), self.objects.version)

    async def create(self, manifest: Manifest) -> Manifest:
        await self._answer()
        self.refuse(manifest)
        stored = self.objects.add(
            {**manifest, **({"status": {"phase": "Pending"}} if manifest["kind"] == "Pod" else {})}
        )
        self._tell(stored)
        await self._wrote("create", manifest["kind"], stored["metadata"]["name"])
        return stored

    async def delete_pod(self, key: JobKey, name: str, uid: str, grace_seconds: int | None = None) -> None:
        del grace_seconds  # pods go at the next step
        await self._answer()
        pod = self.objects.get(("Pod", key.namespace, name))
        if pod["metadata"]["uid"] != uid:
            raise NotFoundError(name)
        if "deletionTimestamp" not in pod["metadata"]:
            pod["metadata"]["deletionTimestamp"] = now_text()
            self._tell(self.objects.replace(pod))
        await self._wrote("delete", "Pod", name)

    async def delete_job(self, key: JobKey, uid: str) -> None:
        await self._answer()
        job = self.objects.get((KIND, key.namespace, key.name))
        if job["metadata"]["uid"] != uid:
            raise NotFoundError(key.name)
        for child in list(self.objects.owned_by(uid)):
            self.remove(child)
        self.remove(job)
        await self._wrote("delete", KIND, key.name)

    async def write_status(self, job: Manifest, status: Manifest) -> Manifest:
        await self._answer()
        present = self.objects.get(identity({**job, "kind": KIND}))
        read = {field: job["metadata"][field] for field in ("uid", "resourceVersion")}
        stored = self.objects.replace({**present, "metadata": {**present["metadata"], **read}, "status": status})
        self._tell(stored)
        await self._wrote("status", KIND, stored["metadata"]["name"])
        return stored

    async def pod_warning(self, namespace: str, uid: str) -> tuple[str, str] | None:
        del namespace  # a UID is enough
        await self._answer()
        self.inquiries += 1
        return self.warnings.get(uid)

    async def lease_renewal(self, namespace: str, name: str) -> str | None:
        return self.leases.get((namespace, name))

    async def serves(self, api_version: str, resource: str) -> bool:
        await self._answer()
        return (api_version, resource) in self.served

    async def list_classes(self) -> list[Manifest]:
        await self._answer()
        return self.classes

    async def namespace_labels(self, namespace: str) -> dict[str, str]:
        await self._answer()
        return self.labels.get(namespace, {})

    async def pending_workloads(self, namespace: str, queue: str) -> list[PendingWorkload]:
        await self._answer()
        self.questions += 1
        return self.lines.get((namespace, queue), [])

    async def review_token(self, token: str, audience: str) -> PodIdentity | None:
        raise NotImplementedError

    # What a person does, or the control plane.

    def submit(self, manifest: Manifest) -> Manifest:
        stored = self.objects.add(manifest)
        self._tell(stored)
        return stored

    def edit(self, manifest: Manifest) -> Manifest:
        stored = self.objects.replace(manifest)
        self._tell(stored)
        return stored

    def remove(self, manifest: Manifest) -> None:
        self.objects.remove(manifest)
        self._tell(manifest, deleted=True)

    def deliver(self) -> None:
        """Let the watch catch up."""
        late, self._late = self._late, []
        for manifest, deleted in late:
            self._pass_on(manifest, deleted=deleted)

    def job(self, name: str = "digits", namespace: str = "team") -> Manifest:
        return self.objects.get((KIND, namespace, name))

    def pods(self) -> list[Manifest]:
        return self.objects.select("Pod", {LABEL_JOB: None})

    # What nodes do.

    def step(self, fate: Fate) -> None:
        """Move every pod one stage on: pending, running, ended; and remove those that are to go."""
        for pod in self.pods():
            phase, labels = pod["status"]["phase"], pod["metadata"]["labels"]
            place = int(labels[LABEL_WORKER]), int(labels[LABEL_ATTEMPT])
            if "deletionTimestamp" in pod["metadata"]:
                self.remove(pod)
            elif phase == "Pending" and not self.waits(*place):
                self.edit({**pod, "status": {"phase": "Running", "containerStatuses": [_container({"running": {}})]}})
            elif phase == "Running" and (code := fate(*place)) is not None:
                ended = {"exitCode": code, "finishedAt": now_text(), "reason": "Error" if code else "Completed"}
                ended |= {} if code else {"message": '{"exitCode": 0}'}
                phase = "Failed" if code else "Succeeded"
                self.edit({**pod, "status": {"phase": phase, "containerStatuses": [_container({"terminated": ended})]}})

    async def _answer(self) -> None:
        # A real answer takes a moment, in which others come to their turn.
        await asyncio.sleep(0.001)
        if self.dead:
            await asyncio.Event().wait()
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error

    @property
    def dead(self) -> bool:
        return self.die_after is not None and len(self.writes) >= self.die_after

    async def _wrote(self, verb: str, kind: str, name: str) -> None:
        self.writes.append((verb, kind, name))
        if self.dead:
            await asyncio.Event().wait()

    def _tell(self, manifest: Manifest, *, deleted: bool = False) -> None:
        if self.lagging:
            self._late.append((manifest, deleted))
        else:
            self._pass_on(manifest, deleted=deleted)

    def _pass_on(self, manifest: Manifest, *, deleted: bool) -> None:
        if self.sink is None:
            return
        if manifest["kind"] == KIND:
            self.sink.job_changed(manifest, deleted=deleted)
        elif manifest["kind"] == "Pod":
            self.sink.pod_changed(manifest, deleted=deleted)


def _container(state: dict[str, Any]) -> dict[str, Any]:
    return {"name": "worker", "ready": "running" in state, "restartCount": 0, "state": state}
