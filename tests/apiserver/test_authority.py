"""The CA of the reports endpoint on a real API server: several replicas keep one, and replace it while workers report."""

import asyncio
import base64
import signal
from datetime import timedelta

import pytest
from kubelet import FakeKubelet
from manifests import job

from trainwright.api.names import CA_FILE, CONFIG_FILE, report_audience
from trainwright.api.worker import WorkerConfig, WorkerPhase, WorkerReport
from trainwright.cluster.kubernetes import KubernetesCluster
from trainwright.cluster.port import ClusterError
from trainwright.reports.authority import AuthoritySecret
from trainwright.reports.certificates import create_authority, linked
from trainwright_worker.reporting.client import Client

NAME = "trainwright-reports-ca"


@pytest.fixture
def secrets(namespace):
    return f"/api/v1/namespaces/{namespace}/secrets"


@pytest.fixture
async def replica(api_server, namespace):
    """Make the view of one more replica."""
    connections = []

    def make():
        connections.append(api_server.connect())
        return AuthoritySecret(connections[-1], namespace, NAME)

    yield make
    for connection in connections:
        await connection.close()


def secret(**data):
    encoded = {name.replace("_", "."): base64.b64encode(value).decode() for name, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAME}, "data": encoded}


async def current(replicas):
    """Let all replicas look at the same time, and return the CA that they agree on."""
    await asyncio.gather(*(each.current() for each in replicas))
    authorities = [await each.current() for each in replicas]
    assert authorities == authorities[:1] * len(authorities)
    return authorities[0]


async def test_replicas_that_race_end_up_with_one_ca(replica):
    replicas = [replica() for _ in range(5)]
    authority = await current(replicas)
    assert authority.links == b""
    assert await replica().current() == authority


async def test_a_ca_that_is_due_is_replaced_once_and_signs_its_successor(replica, administrator, secrets):
    due = create_authority(timedelta(days=300))
    await administrator.create(secrets, secret(tls_crt=due.certificate, tls_key=due.key))
    authority = await current([replica() for _ in range(5)])
    assert authority.certificate != due.certificate
    assert linked(authority, due) == authority
    assert authority.links.count(b"BEGIN") == 1


async def test_a_deleted_secret_is_created_with_a_new_ca_that_the_former_one_signs(replica, administrator, secrets):
    replicas = [replica() for _ in range(3)]
    first = await current(replicas)
    await administrator.delete(f"{secrets}/{NAME}")
    second = await current(replicas)
    assert second.certificate != first.certificate
    assert linked(second, first) == second


async def test_a_secret_that_is_put_back_is_used_and_signed_by_the_ca_after_it(replica, administrator, secrets):
    replicas = [replica(), replica()]
    first = await current(replicas)
    backup = (await administrator.get(f"{secrets}/{NAME}")).body["data"]
    await administrator.delete(f"{secrets}/{NAME}")
    second = await current(replicas)
    await administrator.merge(f"{secrets}/{NAME}", {"data": {"links.crt": None, **backup}})
    third = await current(replicas)
    assert third.certificate == first.certificate
    assert linked(third, second) == third


@pytest.mark.parametrize(
    "data",
    [
        {"tls_crt": b"", "tls_key": b""},
        {"tls_crt": b"x", "tls_key": b"x"},
        {"tls_crt": b"x"},
        {"tls_crt": create_authority().certificate, "tls_key": create_authority().key},
        {**dict(zip(("tls_crt", "tls_key"), create_authority().__dict__.values(), strict=False)), "links_crt": b"x"},
    ],
)
async def test_a_damaged_secret_is_told_of_and_not_used(replica, administrator, secrets, data):
    await administrator.create(secrets, secret(**data))
    with pytest.raises(ClusterError, match=rf"Secret .*/{NAME} does not hold a CA .*; delete the Secret"):
        await replica().current()
    assert (await administrator.get(f"{secrets}/{NAME}")).body["data"] == secret(**data)["data"]


async def until(condition, seconds=30):
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - it is about other processes
            await asyncio.sleep(0.05)


class Worker:
    """The reporting part of a worker, with what its pod mounts."""

    def __init__(self, folder, config_map, token):
        for name, content in {**config_map["data"], "token": token}.items():
            (folder / name).write_text(content)
        self.ca = config_map["data"][CA_FILE]
        self._folder = folder
        self._config = WorkerConfig.model_validate_json(config_map["data"][CONFIG_FILE])

    @classmethod
    async def of(cls, kubelet, pod, folder):
        folder.mkdir()
        (owner,) = pod["metadata"]["ownerReferences"]
        audience = report_audience(pod["metadata"]["namespace"], owner["name"], owner["uid"])
        return cls(folder, await kubelet.config_map(pod), await kubelet.token(pod, audience))

    async def until_heard(self, operator, attempt):
        """Report over new connections until a report is accepted."""
        # The Service is not there: its name is replaced by one of this machine, for which the certificate is valid too.
        url = f"https://localhost:{operator.reports_port}/v1/namespaces/{self._config.namespace}/jobs/digits/reports"
        files = {"ca_file": str(self._folder / CA_FILE), "token_file": str(self._folder / "token")}
        endpoint = self._config.reports.changed(url=url, **files)
        report = WorkerReport(uid=self._config.uid, attempt=attempt, launch="a", sequence=1, phase=WorkerPhase.TRAINING)
        await until(lambda: Client(endpoint, "worker").post(report))


async def test_workers_report_through_a_rotation_and_a_takeover(
    server, namespace, administrator, secrets, start_operator, tmp_path
):
    kubelet = FakeKubelet(server, namespace)
    settings = {"reports_service": "localhost", "reports_ca_interval": 0.2}
    first = start_operator(pod_name="a", **settings)
    await first.until_leading()
    second = start_operator(pod_name="b", **settings)
    await KubernetesCluster(server).create(job(namespace, restart={"backoffSeconds": 0}))
    (pod,) = await kubelet.until_pods("digits", lambda pods: len(pods) == 1)
    await kubelet.set(pod, "Running")
    old = await Worker.of(kubelet, pod, tmp_path / "old")
    await old.until_heard(first, 1)

    await until(lambda: second.get("/readyz")[0] == 200)
    await administrator.delete(f"{secrets}/{NAME}")
    for operator in (first, second):
        await until(lambda operator=operator: any("another CA" in line["event"] for line in operator.lines()))
    await old.until_heard(first, 1)
    first.process.send_signal(signal.SIGTERM)
    await second.until_leading()
    await old.until_heard(second, 1)
    assert [each["metadata"]["uid"] for each in await kubelet.pods("digits")] == [pod["metadata"]["uid"]]
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    assert len((await server.request("GET", path, "configmaps"))["items"]) == 1

    await kubelet.set(pod, "Failed", exit_code=69)
    pods = await kubelet.until_pods("digits", lambda pods: any(p["metadata"]["name"] == "digits-0-2" for p in pods))
    new = await Worker.of(kubelet, pods[-1], tmp_path / "new")
    assert new.ca != old.ca
    assert base64.b64decode((await administrator.get(f"{secrets}/{NAME}")).body["data"]["tls.crt"]).decode() == new.ca
    await new.until_heard(second, 2)
    assert (await kubelet.status("digits"))["restarts"] == 1
