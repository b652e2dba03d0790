"""A job of two workers that runs and reports, and the means to see that it is unharmed."""

import base64
import itertools
import ssl
from typing import Any

import aiohttp
from kubelet import FakeKubelet
from manifests import job
from person import Person

from trainwright.api.names import report_audience
from trainwright.api.worker import WorkerPhase, WorkerReport
from trainwright.build.naming import companion_name

NAME = "digits"
ACCEPTED, CONFLICT, TOO_MANY = 204, 409, 429
JOBS = "/apis/trainwright.dev/v1alpha1/namespaces/{}/trainingjobs"
PLACES = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Service": "/api/v1/namespaces/{}/services",
    "TrainingJob": JOBS,
}


class Scene:
    """See the module.

    Args:
        administrator: Whoever made the job, and puts things right again.
        kubelet: Plays the nodes.
        namespace: Where all of it is.
        reports_port: Where the operator takes reports.
    """

    def __init__(self, administrator: Person, kubelet: FakeKubelet, namespace: str, reports_port: int) -> None:
        self.administrator = administrator
        self.kubelet = kubelet
        self.namespace = namespace
        self._url = f"https://127.0.0.1:{reports_port}/v1/namespaces/{namespace}/jobs/{NAME}/reports"
        self._steps = itertools.count(1)

    async def start(self) -> None:
        """Create the job and have it run and report its first step."""
        answer = await self.administrator.create(JOBS.format(self.namespace), job(self.namespace, NAME, workers=2))
        assert not answer.refused, answer
        self.uid = answer.body["metadata"]["uid"]
        self.pods = await self.kubelet.until_pods(NAME, lambda pods: len(pods) == 2)
        for pod in self.pods:
            await self.kubelet.set(pod, "Running")
        self._companions = {kind: await self._find(kind) for kind in ("ConfigMap", "NetworkPolicy", "Service")}
        await self._prepare_reports()
        await self.pulse()
        self.born = await self.job()

    async def end(self) -> None:
        """Have the workers end well, and the job with them."""
        for pod in self.pods:
            await self.kubelet.set(pod, "Succeeded", exit_code=0)
        await self.kubelet.until_status(NAME, lambda status: status.get("phase") == "Succeeded")

    def path(self, kind: str, name: str | None = None) -> str:
        """Return the path of an object, or of all of its kind."""
        collection = PLACES[kind].format(self.namespace)
        return collection if name is None else f"{collection}/{name}"

    def companion(self, kind: str) -> str:
        """Return what the job's only object of this kind is called."""
        return self._companions[kind]

    async def _find(self, kind: str) -> str:
        listed = (await self.administrator.get(self.path(kind))).body["items"]
        named = [item["metadata"]["name"] for item in listed]
        return next(name for name in named if name.startswith(companion_name(NAME, self.uid)))

    async def job(self) -> dict[str, Any]:
        return (await self.administrator.get(self.path("TrainingJob", NAME))).body

    async def restore(self) -> None:
        """Write spec and metadata of the job as they were at the beginning, whatever the operator writes meanwhile."""
        for _ in range(20):
            version = (await self.job())["metadata"]["resourceVersion"]
            former = {**self.born, "metadata": {**self.born["metadata"], "resourceVersion": version}}
            answer = await self.administrator.replace(self.path("TrainingJob", NAME), former)
            if answer.code != CONFLICT:
                break
        assert not answer.refused, answer

    async def pulse(self) -> None:
        """Report one more step, and wait until the status says so, of the present spec, with the job running."""
        step = next(self._steps)
        sent = WorkerReport(
            uid=self.uid,
            attempt=1,
            launch="a",
            sequence=step,
            phase=WorkerPhase.TRAINING,
            step=step,
            total_steps=10_000,
        )
        headers = {"Authorization": f"Bearer {self._token}"}
        host = f"trainwright-reports.{self.namespace}.svc"
        async with aiohttp.ClientSession(headers=headers) as session:
            code = TOO_MANY
            while code == TOO_MANY:  # as a worker does whose reports come too fast
                async with session.post(
                    self._url, json=sent.to_wire(), ssl=self._context, server_hostname=host
                ) as answer:
                    code = answer.status
            assert code == ACCEPTED, f"a report is answered with {code}"
        generation = (await self.job())["metadata"]["generation"]

        def says_so(status: dict[str, Any]) -> bool:
            return (
                status.get("phase") == "Running"
                and status.get("progress", {}).get("step") == step
                and status.get("observedGeneration") == generation
            )

        await self.kubelet.until_status(NAME, says_so, seconds=15)

    async def harm(self) -> str | None:
        """Return in which way the running work is not what it was, or None."""
        present = {pod["metadata"]["name"]: pod for pod in await self._all_pods()}
        for pod in self.pods:
            meta = pod["metadata"]
            now = present.get(meta["name"])
            if now is None or now["metadata"]["uid"] != meta["uid"]:
                return f"{meta['name']} is gone"
            if "deletionTimestamp" in now["metadata"]:
                return f"{meta['name']} is being deleted"
        made = {name for name in present if name.startswith(f"{NAME}-") and name.endswith(("-2", "-3"))}
        if made:
            return f"{made} came to be"
        status = (await self.job()).get("status") or {}
        counters = status.get("attempt"), status.get("restarts")
        return None if counters == (1, 0) else f"attempt and restarts are {counters}: {status.get('failure')}"

    async def _all_pods(self) -> list[dict[str, Any]]:
        return (await self.administrator.get(self.path("Pod"))).body["items"]

    async def _prepare_reports(self) -> None:
        secret = await self.administrator.get(f"/api/v1/namespaces/{self.namespace}/secrets/trainwright-reports-ca")
        certificate = base64.b64decode(secret.body["data"]["tls.crt"]).decode()
        self._context = ssl.create_default_context(cadata=certificate)
        leader = self.pods[0]["metadata"]
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [report_audience(self.namespace, NAME, self.uid)],
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": leader["name"], "uid": leader["uid"]},
            },
        }
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default/token"
        self._token = (await self.administrator.create(path, request)).body["status"]["token"]
