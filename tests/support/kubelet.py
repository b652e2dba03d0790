"""A stand-in for scheduler and kubelet on an API server that has neither: says of pods what a node would say."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from trainwright.cluster.kubernetes import KubernetesCluster, collection
from trainwright.cluster.port import JobKey, Manifest, NotFoundError
from trainwright.cluster.rest import ApiServer

T = TypeVar("T")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeKubelet:
    """Sets pod statuses in one namespace."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self._pods = collection("v1", "pods", namespace)
        self._cluster = KubernetesCluster(server, [namespace])
        self._jobs = collection("trainwright.dev/v1alpha1", "trainingjobs", namespace)
        self._namespace = namespace

    async def pods(self, job: str) -> list[Manifest]:
        return await self._cluster.list_pods(JobKey(self._namespace, job))

    async def job(self, name: str) -> Manifest:
        return await self._server.request("GET", f"{self._jobs}/{name}", "trainingjobs")

    async def status(self, name: str) -> Manifest:
        return (await self.job(name)).get("status") or {}

    async def set(self, pod: Manifest, phase: str, exit_code: int | None = None, message: str = "") -> None:
        state: dict[str, Any] = {"running": {"startedAt": _now()}} if phase == "Running" else {}
        if exit_code is not None:
            # A worker that ends well always says so.
            said = message or ('{"exitCode": 0}' if exit_code == 0 else "")
            ended = {"exitCode": exit_code, "finishedAt": _now(), "startedAt": _now(), "message": said}
            state = {"terminated": {**ended, "reason": "Completed" if exit_code == 0 else "Error"}}
        container = {
            "name": "worker",
            "image": "none",
            "imageID": "none",
            "restartCount": 0,
            "ready": phase == "Running",
            "state": state,
        }
        name = pod["metadata"]["name"]
        whole = await self._server.request("GET", f"{self._pods}/{name}", "pods")
        whole["status"] = {"phase": phase, "containerStatuses": [container], "startTime": _now()}
        await self._server.request("PUT", f"{self._pods}/{name}/status", "pods", whole)

    async def token(self, pod: Manifest, audience: str) -> str:
        """Return a token of the pod's service account, bound to the pod, as a kubelet mounts it."""
        meta = pod["metadata"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "boundObjectRef": bound},
        }
        path = f"{collection('v1', 'serviceaccounts', self._namespace)}/default/token"
        token: str = (await self._server.request("POST", path, "tokens", request))["status"]["token"]
        return token

    async def config_map(self, pod: Manifest) -> Manifest:
        """Return the ConfigMap that the pod mounts as its config."""
        whole = await self._server.request("GET", f"{self._pods}/{pod['metadata']['name']}", "pods")
        volumes = {volume["name"]: volume for volume in whole["spec"]["volumes"]}
        path = f"{collection('v1', 'configmaps', self._namespace)}/{volumes['config']['configMap']['name']}"
        return await self._server.request("GET", path, "configmaps")

    async def finish_deletions(self, job: str) -> None:
        """Remove pods whose deletion was asked for, as a kubelet does once their processes are gone."""
        for pod in await self.pods(job):
            if pod["metadata"].get("deletionTimestamp"):
                try:
                    await self._cluster.delete_pod(
                        JobKey(self._namespace, job), pod["metadata"]["name"], pod["metadata"]["uid"], 0
                    )
                except NotFoundError:
                    continue

    async def until_status(self, name: str, holds: Callable[[Manifest], Any], seconds: float = 30) -> Manifest:
        """Wait until the job's status is as asked for, and return it."""
        status: Manifest = {}
        try:
            async with asyncio.timeout(seconds):
                while not holds(status := await self.status(name)):  # noqa: ASYNC110 - the server is another process
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {seconds:g} s; the status is {status}") from None
        return status

    async def until_pods(self, job: str, holds: Callable[[list[Manifest]], Any], seconds: float = 30) -> list[Manifest]:
        """Wait until the job's pods are as asked for, and return them."""
        pods: list[Manifest] = []
        try:
            async with asyncio.timeout(seconds):
                while not holds(pods := await self.pods(job)):  # noqa: ASYNC110 - the server is another process
                    await asyncio.sleep(0.05)
        except TimeoutError:
            names = [pod["metadata"]["name"] for pod in pods]
            raise AssertionError(f"not within {seconds:g} s; the pods are {names}") from None
        return pods
