"""The Cluster port on a real API server."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

from trainwright.api.names import API_VERSION, CLASS_PLURAL, KIND, LABEL_JOB, PLURAL
from trainwright.cluster.compact import compact, compact_pod
from trainwright.cluster.port import (
    ClusterError,
    ConflictError,
    JobKey,
    Listing,
    Manifest,
    NotFoundError,
    PendingWorkload,
    PodIdentity,
    RejectedError,
)
from trainwright.cluster.rest import LARGEST, ApiServer, TooLargeError

_PAGE = 50
"""Objects listed at once. What a page takes while it is read stays with the process: 20 MiB for 500 pods."""
_PAGE_BYTES = 2 << 20
"""Bytes of a page beyond which fewer objects are asked for at once."""
_EVENT_PAGES = 4
_EVENT_BYTES = 256 << 10
"""Bytes of a page of events beyond which it is not read: an event of Kubernetes' own components takes about one KiB."""
_PLURALS = {
    KIND: PLURAL,
    "ConfigMap": "configmaps",
    "Event": "events",
    "Lease": "leases",
    "NetworkPolicy": "networkpolicies",
    "Pod": "pods",
    "PodGroup": "podgroups",
    "Secret": "secrets",
    "Service": "services",
}
_VISIBILITY = ("visibility.kueue.x-k8s.io/v1beta2", "visibility.kueue.x-k8s.io/v1beta1")
_OTHER_UID = "UID in "
"""From how the API server says that the object of this name is another one: by the UID in the precondition."""
_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"


class KubernetesCluster:
    """A cluster behind an API server.

    Args:
        server: The connection.
        namespaces: The only namespaces to look at; empty means all.
    """

    def __init__(self, server: ApiServer, namespaces: Sequence[str] = ()) -> None:
        self._server = server
        self._namespaces = tuple(namespaces)

    async def list_jobs(self) -> Listing:
        """Return every TrainingJob in the watched namespaces."""
        jobs = await self._list_everywhere(API_VERSION, PLURAL, None, compact)
        named = ({"apiVersion": API_VERSION, "kind": KIND, **job} for job in jobs)
        return Listing(named, jobs.version, jobs.left_out)

    async def list_pods(self, key: JobKey | None = None) -> Listing:
        """Return the worker pods (by label) of one job, or of all jobs."""
        if key is None:
            return await self._list_everywhere("v1", "pods", LABEL_JOB, compact_pod)
        return await self._list("v1", "pods", key.namespace, f"{LABEL_JOB}={key.name}", compact_pod)

    async def create(self, manifest: Manifest) -> Manifest:
        """Create any namespaced object and return it as stored."""
        resource = _PLURALS[manifest["kind"]]
        path = collection(manifest["apiVersion"], resource, manifest["metadata"]["namespace"])
        return await self._server.request("POST", path, resource, manifest)

    async def delete_pod(self, key: JobKey, name: str, uid: str, grace_seconds: int | None = None) -> None:
        """Ask for the deletion of the pod with this UID."""
        options: Manifest = {"preconditions": {"uid": uid}}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        await self._delete(f"{collection('v1', 'pods', key.namespace)}/{quote(name)}", "pods", options)

    async def delete_job(self, key: JobKey, uid: str) -> None:
        """Delete a TrainingJob and, through ownership, all its children."""
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        await self._delete(f"{collection(API_VERSION, PLURAL, key.namespace)}/{quote(key.name)}", PLURAL, options)

    async def write_status(self, job: Manifest, status: Manifest) -> Manifest:
        """Replace the status of the job if it is still at the resourceVersion of `job`."""
        meta = job["metadata"]
        path = f"{collection(API_VERSION, PLURAL, meta['namespace'])}/{quote(meta['name'])}/status"
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {name: meta[name] for name in ("namespace", "name", "uid", "resourceVersion")},
            "spec": job.get("spec", {}),
            "status": status,
        }
        return await self._server.request("PUT", path, f"{PLURAL}/status", body)

    async def pod_warning(self, namespace: str, uid: str) -> tuple[str, str] | None:
        """Return the newest warning about the pod with this UID as (reason, message), or None if there is none.

        Anybody who may create events can add to those of a pod: of more than 200, only the first 200 by name are read.

        Raises:
            ClusterError: Or one of its kinds; also where the events are far larger than any of Kubernetes' own.
        """
        path = collection("v1", "events", namespace)
        query: dict[str, str | int] = {"fieldSelector": f"involvedObject.uid={uid},type=Warning", "limit": _PAGE}
        newest: Manifest | None = None
        for _ in range(_EVENT_PAGES):
            page = await self._server.request("GET", path, "events", query=query, largest=_EVENT_BYTES)
            newest = max((*filter(None, [newest]), *(page.get("items") or ())), key=_last_seen, default=None)
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                break
        return None if newest is None else (newest.get("reason") or "Warning", newest.get("message") or "")

    async def serves(self, api_version: str, resource: str) -> bool:
        """Return whether the API server serves such a resource."""
        try:
            answer = await self._server.request("GET", f"/apis/{api_version}", "apis")
        except NotFoundError:
            return False
        return any(item.get("name") == resource for item in answer.get("resources") or ())

    async def list_classes(self) -> list[Manifest]:
        """Return every TrainingClass; none where their definition is not installed."""
        try:
            return await self._list(API_VERSION, CLASS_PLURAL, None, None, compact)
        except NotFoundError:
            return []

    async def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Return the labels of a namespace."""
        answer = await self._server.request(
            "GET", f"{collection('v1', 'namespaces', None)}/{quote(namespace)}", "namespaces"
        )
        labels: Mapping[str, str] = answer["metadata"].get("labels") or {}
        return labels

    async def lease_renewal(self, namespace: str, name: str) -> str | None:
        """Return when a Lease was last renewed, as its text; None if there is no such Lease, or it has never been renewed."""
        path = f"{collection('coordination.k8s.io/v1', 'leases', namespace)}/{quote(name)}"
        try:
            lease = await self._server.request("GET", path, "leases")
        except NotFoundError:
            return None
        return (lease.get("spec") or {}).get("renewTime")

    async def pending_workloads(self, namespace: str, queue: str) -> list[PendingWorkload]:
        """Return the workloads that wait in a LocalQueue of Kueue, in order, from its visibility API.

        Raises:
            NotFoundError: Kueue knows no such queue.
            ClusterError: Or another of its kinds; also where the API is not served.
        """
        answer = await self._visible(namespace, queue)
        return [
            PendingWorkload(
                name=item["metadata"]["name"],
                position=item.get("positionInLocalQueue", 0) + 1,
                overall=item.get("positionInClusterQueue", 0) + 1,
            )
            for item in answer.get("items") or ()
        ]

    async def _visible(self, namespace: str, queue: str) -> Manifest:
        for version in _VISIBILITY:
            path = f"{collection(version, 'localqueues', namespace)}/{quote(queue)}/pendingworkloads"
            try:
                return await self._server.request("GET", path, "localqueues/pendingworkloads")
            except NotFoundError as error:
                if f'"{queue}" not found' in str(error):  # Kueue's own answer; one about the API names no queue
                    raise
        raise ClusterError("Kueue's visibility API is not served")

    async def review_token(self, token: str, audience: str) -> PodIdentity | None:
        """Return the pod that the token was issued to for this audience, or None if it is not valid."""
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        status = (await self._server.request("POST", path, "tokenreviews", review)).get("status") or {}
        # A server without audience support returns no audiences, and such a token is not accepted.
        if not status.get("authenticated") or audience not in (status.get("audiences") or ()):
            return None
        return _pod_identity(status.get("user") or {})

    async def _delete(self, path: str, resource: str, options: Manifest) -> None:
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        try:
            await self._server.request("DELETE", path, resource, body)
        except ConflictError as error:
            if _OTHER_UID not in str(error):
                raise
            raise NotFoundError(str(error)) from error  # another object has the name now

    async def _list_everywhere(
        self, api_version: str, resource: str, selector: str | None, shrink: Callable[[Manifest], Manifest]
    ) -> Listing:
        if not self._namespaces:
            return await self._list(api_version, resource, None, selector, shrink)
        lists = await asyncio.gather(
            *(self._list_or_not(api_version, resource, namespace, selector, shrink) for namespace in self._namespaces)
        )
        refusals = {
            namespace: answer
            for namespace, answer in zip(self._namespaces, lists, strict=True)
            if not isinstance(answer, Listing)
        }
        listed = [answer for answer in lists if isinstance(answer, Listing)]
        if not listed:
            raise next(iter(refusals.values()))
        # Together they prove no more than the oldest of them.
        version = min(items.version for items in listed)
        left_out = {namespace: str(error) for namespace, error in refusals.items()}
        return Listing((item for items in listed for item in items), version, left_out)

    async def _list_or_not(
        self,
        api_version: str,
        resource: str,
        namespace: str,
        selector: str | None,
        shrink: Callable[[Manifest], Manifest],
    ) -> Listing | RejectedError | NotFoundError:
        """Return what is in a namespace, or why that is not for us to know: our rights in it go when it is deleted."""
        try:
            return await self._list(api_version, resource, namespace, selector, shrink)
        except (RejectedError, NotFoundError) as error:
            return error

    async def _list(
        self,
        api_version: str,
        resource: str,
        namespace: str | None,
        selector: str | None,
        shrink: Callable[[Manifest], Manifest],
    ) -> Listing:
        """List page by page, and keep of each only what is read: whole pods would fill the memory."""
        items: list[Manifest] = []
        path = collection(api_version, resource, namespace)
        query: dict[str, str | int] = {"labelSelector": selector} if selector else {}
        limit = _PAGE
        while True:
            query["limit"] = limit
            try:
                page = await self._server.request(
                    "GET", path, resource, query=query, largest=_PAGE_BYTES if limit > 1 else LARGEST
                )
            except TooLargeError:
                if limit == 1:
                    raise
                limit = max(1, limit // 8)
                continue
            items += [shrink(item) for item in page.get("items") or ()]
            meta = page.get("metadata") or {}
            query["continue"] = meta.get("continue") or ""
            if not query["continue"]:
                return Listing(items, int(meta.get("resourceVersion") or 0))
            limit = min(_PAGE, 2 * limit)


def collection(api_version: str, resource: str, namespace: str | None) -> str:
    """Return the path of a collection; without a namespace, over all namespaces."""
    root = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
    return f"{root}/{resource}" if namespace is None else f"{root}/namespaces/{quote(namespace)}/{resource}"


def _last_seen(event: Manifest) -> str:
    """Return when an event was last seen, as text that sorts; the older API and the newer one keep it in other fields."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return next((time for time in times if time), "")


def _pod_identity(user: Manifest) -> PodIdentity | None:
    parts = str(user.get("username", "")).split(":")
    extra = user.get("extra") or {}
    name, uid = extra.get(_POD_NAME), extra.get(_POD_UID)
    if parts[:2] != ["system", "serviceaccount"] or len(parts) != 4 or not name or not uid:  # noqa: PLR2004 - see above
        return None
    return PodIdentity(namespace=parts[2], name=name[0], uid=uid[0])
