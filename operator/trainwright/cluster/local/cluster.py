"""The Cluster port on one machine: an API server and a garbage collector, each as small as a job needs."""

import contextlib
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from trainwright.api.names import KIND, LABEL_JOB
from trainwright.api.status import rfc3339
from trainwright.cluster.local import pod_status
from trainwright.cluster.local.kubelet import Kubelet
from trainwright.cluster.local.mounts import Folders
from trainwright.cluster.local.objects import Objects, identity
from trainwright.cluster.port import (
    JobKey,
    Listing,
    Manifest,
    NotFoundError,
    PendingWorkload,
    PodIdentity,
    RejectedError,
    Sink,
)

DEFAULT_GRACE_SECONDS = 30


class LocalCluster:
    """A cluster whose pods are processes on this machine.

    All calls and callbacks happen on one event loop. `close()` ends what still runs; so does the end of this process,
    however it comes.

    Args:
        folders: Where pods keep their files and logs, and what stands for the volumes they mount.
        worker_command: What a worker container runs.
    """

    def __init__(self, folders: Folders, worker_command: Sequence[str] | None = None) -> None:
        command = worker_command or (sys.executable, "-m", "trainwright_worker")
        self._objects = Objects()
        self._kubelet = Kubelet(folders, command, self)
        self._sinks: list[Sink] = []

    def watch(self, sink: Sink) -> None:
        """Tell the sink of every change from now on."""
        self._sinks.append(sink)

    async def close(self) -> None:
        """Kill every pod's process and wait until all are gone."""
        await self._kubelet.close()

    # Actions of the user.

    def submit(self, job: Manifest) -> Manifest:
        """Store a TrainingJob, new or with the UID and status of an earlier run, and return it as stored.

        Raises:
            AlreadyExistsError: A job of that name exists.
        """
        return self._tell(self._objects.add(job, restored=True))

    def set_suspend(self, key: JobKey, *, suspend: bool) -> None:
        """Suspend or resume a job, as a person would by editing its spec."""
        job = self.get_job(key)
        job["spec"] = {**job["spec"], "suspend": suspend}
        self.update(job)

    def get_job(self, key: JobKey) -> Manifest:
        """Return a job.

        Raises:
            NotFoundError: There is none.
        """
        return self._objects.get((KIND, key.namespace, key.name))

    # The port.

    async def list_jobs(self) -> Listing:
        """Return every TrainingJob."""
        return Listing(self._objects.select(KIND, {}), self._objects.version)

    async def list_pods(self, key: JobKey | None = None) -> Listing:
        """Return the worker pods of one job, or of all jobs."""
        name, namespace = (None, None) if key is None else (key.name, key.namespace)
        return Listing(self._objects.select("Pod", {LABEL_JOB: name}, namespace), self._objects.version)

    async def create(self, manifest: Manifest) -> Manifest:
        """Create any object; a pod's process starts at once.

        Raises:
            AlreadyExistsError: An object of that name exists.
            RejectedError: The pod mounts a ConfigMap that does not exist.
        """
        if manifest["kind"] != "Pod":
            return self._tell(self._objects.add(manifest))
        files = self._mounted_config(manifest)
        pod = self._tell(self._objects.add(pod_status.pending(manifest, "ContainerCreating")))
        self._kubelet.start(pod, files)
        return pod

    async def delete_pod(self, key: JobKey, name: str, uid: str, grace_seconds: int | None = None) -> None:
        """Ask for the deletion of the pod with this UID; it goes when its process has ended.

        Raises:
            NotFoundError: It is gone, or another pod has its name.
        """
        pod = self._objects.get(("Pod", key.namespace, name))
        if pod["metadata"]["uid"] != uid:
            raise NotFoundError(f'Pod "{name}" has another UID')
        self._delete_pod(pod, grace_seconds)

    async def delete_job(self, key: JobKey, uid: str) -> None:
        """Delete a TrainingJob and, through ownership, all its children.

        Raises:
            NotFoundError: It is gone, or another job has its name.
        """
        job = self.get_job(key)
        if job["metadata"]["uid"] != uid:
            raise NotFoundError(f'TrainingJob "{key}" has another UID')
        self.forget(job)
        for child in self._objects.owned_by(uid):
            if child["kind"] == "Pod":
                self._delete_pod(child, None)
            else:
                self.forget(child)

    async def write_status(self, job: Manifest, status: Manifest) -> Manifest:
        """Replace the status of the job if it is still at the resourceVersion of `job`; return it as stored.

        Raises:
            ConflictError: The job has changed since.
            NotFoundError: The job is gone.
        """
        present = self._objects.get(identity(job))
        read = {field: job["metadata"][field] for field in ("uid", "resourceVersion")}
        written = {**present, "metadata": {**present["metadata"], **read}, "status": status}
        return self._tell(self._objects.replace(written))

    async def pod_warning(self, namespace: str, uid: str) -> tuple[str, str] | None:  # noqa: ARG002 - nothing warns here
        """Return None: what keeps a process of this machine from starting is in its pod's status."""
        return None

    async def serves(self, api_version: str, resource: str) -> bool:  # noqa: ARG002 - nothing is, here
        """Return False: this cluster has no optional APIs."""
        return False

    async def list_classes(self) -> list[Manifest]:
        """Return nothing: classes act on clusters only."""
        return []

    async def namespace_labels(self, namespace: str) -> dict[str, str]:  # noqa: ARG002 - namespaces are only names here
        """Return nothing: namespaces have no labels."""
        return {}

    async def lease_renewal(self, namespace: str, name: str) -> str | None:  # noqa: ARG002 - there are no Leases
        """Return None: there are no Leases."""
        return None

    async def pending_workloads(self, namespace: str, queue: str) -> list[PendingWorkload]:  # noqa: ARG002 - there are no queues
        """Return nothing: there are no queues."""
        return []

    async def review_token(self, token: str, audience: str) -> PodIdentity | None:
        """Return the pod that the token was issued to for this audience, or None if it is not valid."""
        return self._kubelet.pod_of(token, audience)

    # What the kubelet needs.

    def current(self, pod: Manifest) -> Manifest:
        """Return the newest version of an object."""
        return self._objects.get(identity(pod))

    def update(self, pod: Manifest) -> None:
        """Store a newer version of an object and notify the sink."""
        self._tell(self._objects.replace(pod))

    def forget(self, pod: Manifest) -> None:
        """Remove an object and notify the sink."""
        self._objects.remove(pod)
        self._tell(pod, deleted=True)

    def _delete_pod(self, pod: Manifest, grace_seconds: int | None) -> None:
        if not self._kubelet.runs(pod):
            self.forget(pod)
            return
        default = pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
        grace = default if grace_seconds is None else grace_seconds
        metadata = pod["metadata"]
        if "deletionTimestamp" not in metadata or grace < metadata["deletionGracePeriodSeconds"]:
            # As in Kubernetes: not when the deletion was asked for, but when the grace period is over.
            gone_at = rfc3339(datetime.now(UTC) + timedelta(seconds=grace))
            deletion = {"deletionTimestamp": gone_at, "deletionGracePeriodSeconds": grace}
            self.update({**pod, "metadata": {**metadata, **deletion}})
            self._kubelet.stop(pod, grace)

    def _mounted_config(self, pod: Manifest) -> dict[str, str]:
        """Return the files of the ConfigMap that holds the worker's config."""
        namespace = pod["metadata"].get("namespace", "default")
        names = [v["configMap"]["name"] for v in pod["spec"].get("volumes") or () if v["name"] == "config"]
        for name in names:
            with contextlib.suppress(NotFoundError):
                return dict(self._objects.get(("ConfigMap", namespace, name))["data"])
        raise RejectedError(f"the pod's config does not exist yet: {', '.join(names) or 'it mounts none'}")

    def _tell(self, manifest: Manifest, *, deleted: bool = False) -> Manifest:
        for sink in self._sinks:
            if manifest["kind"] == KIND:
                sink.job_changed(manifest, deleted=deleted)
            elif manifest["kind"] == "Pod":
                sink.pod_changed(manifest, deleted=deleted)
        return manifest
