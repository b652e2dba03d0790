"""Jobs to apply, and the bare client's way to the same objects: the ceiling of what any operator can reach here."""

import asyncio
import contextlib
import copy
import time
from typing import Any

from client import JOBS, LABEL_JOB, LABEL_WORKER, ApiError, Client, Manifest, Recorder, gather

LABEL_BARE = "bench.trainwright.dev/bare"
_SERVER_SIDE = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "ownerReferences")
_COLLECTIONS = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "Pod": "/api/v1/namespaces/{}/pods",
}


def job(namespace: str, name: str, workers: int = 2, **spec: Any) -> Manifest:
    """Return a job that needs no volume to be scheduled."""
    return {
        "apiVersion": "trainwright.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"layers": [{"dense": {"units": 10}}]},
            "dataset": {"builtin": {"name": "digits"}},
            "optimizer": {"name": "adam", "learningRate": 0.001},
            "training": {"epochs": 1, "globalBatchSize": 2000},
            "workers": {"count": workers},
            "checkpoint": {"uri": "s3://bench/jobs"},
            **spec,
        },
    }


async def apply(client: Client, manifest: Manifest) -> float:
    """Create a job and return when the request was sent."""
    begun = time.monotonic()
    await client.request("POST", JOBS.format(manifest["metadata"]["namespace"]), manifest)
    return begun


async def make_namespace(client: Client, name: str) -> None:
    """Create a namespace and wait for its service account."""
    await client.request(
        "POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    )
    async with asyncio.timeout(30):
        while True:
            accounts = await client.request("GET", f"/api/v1/namespaces/{name}/serviceaccounts")
            if any(account["metadata"]["name"] == "default" for account in accounts["items"]):
                return
            await asyncio.sleep(0.1)


async def clear(client: Client, recorder: Recorder, namespace: str) -> None:
    """Delete all jobs of a namespace and their children at once: the garbage collector takes its time."""
    await delete_all(client, JOBS.format(namespace))
    await recorder.until(lambda: not any(key[0] == namespace for key in recorder.jobs), 60, "jobs are deleted")
    for collection in ("Pod", "ConfigMap", "NetworkPolicy"):
        await delete_all(client, _COLLECTIONS[collection].format(namespace))
    services = await client.request("GET", _COLLECTIONS["Service"].format(namespace))
    paths = [f"{_COLLECTIONS['Service'].format(namespace)}/{item['metadata']['name']}" for item in services["items"]]
    await gather((lambda path=path: _delete(client, path)) for path in paths)


async def delete_all(client: Client, collection: str) -> None:
    """Delete a collection at once, in as many requests as that takes: the server gives up on each after a minute."""
    while True:
        try:
            options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
            await client.request("DELETE", collection, options)
        except ApiError as error:
            if error.status != 504:
                raise
        else:
            return


async def _delete(client: Client, path: str) -> None:
    with contextlib.suppress(ApiError):  # the garbage collector was faster
        await client.request("DELETE", path)


class BareChildren:
    """Copies of the children that the operator made for one job, to be created by a bare client."""

    def __init__(self, client: Client, children: list[Manifest]) -> None:
        self._client = client
        self._others = [child for child in children if child["kind"] != "Pod"]
        self._pod = next(child for child in children if child["kind"] == "Pod")

    @classmethod
    async def copy(cls, bare: Client, admin: Client, namespace: str, job_name: str) -> "BareChildren":
        """Read the children of a job."""
        children = []
        for kind, path in _COLLECTIONS.items():
            listing = await admin.request("GET", f"{path.format(namespace)}?labelSelector={LABEL_JOB}={job_name}")
            children += [{**item, "kind": kind, "apiVersion": listing["apiVersion"]} for item in listing["items"]]
        return cls(bare, children)

    async def create(self, namespace: str, name: str, workers: int, at_once: int = 16) -> None:
        """Create the children of one job of that name, the pods last."""
        await self._create([self._named(child, namespace, name) for child in self._others], at_once)
        pods = [self._named(self._pod, namespace, f"{name}-{index}") for index in range(workers)]
        for pod in pods:
            pod["metadata"]["labels"][LABEL_BARE] = name
        await self._create(pods, at_once)

    async def _create(self, manifests: list[Manifest], at_once: int) -> None:
        def post(manifest: Manifest) -> Any:
            namespace = manifest["metadata"]["namespace"]
            return self._client.request("POST", _COLLECTIONS[manifest["kind"]].format(namespace), manifest)

        await gather((lambda m=manifest: post(m) for manifest in manifests), at_once)

    def _named(self, child: Manifest, namespace: str, name: str) -> Manifest:
        made = copy.deepcopy({key: value for key, value in child.items() if key != "status"})
        meta = {key: value for key, value in made["metadata"].items() if key not in _SERVER_SIDE}
        labels = {key: value for key, value in meta.get("labels", {}).items() if key not in (LABEL_JOB, LABEL_WORKER)}
        made["metadata"] = {**meta, "name": name, "namespace": namespace, "labels": {**labels, LABEL_BARE: name}}
        if made["kind"] == "Service":
            for field in ("clusterIP", "clusterIPs"):
                if made["spec"].get(field) not in ("None", ["None"]):
                    made["spec"].pop(field, None)
        if made["kind"] == "Pod":
            made["spec"].pop("nodeName", None)
        return made
