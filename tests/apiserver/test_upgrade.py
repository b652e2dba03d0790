"""Jobs of former versions, as an API server and an operator of the present version find them after an upgrade."""

import base64
import ssl

import aiohttp
import pytest
from kubelet import FakeKubelet

from trainwright.api.names import report_audience
from versions import VERSIONS, read

pytestmark = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)


async def _store(administrator, namespace, kind, stored, owner):
    """Store an object of a former version with its status, as it lay in etcd; only identities are new."""
    path = {
        "TrainingJob": f"/apis/trainwright.dev/v1alpha1/namespaces/{namespace}/trainingjobs",
        "Pod": f"/api/v1/namespaces/{namespace}/pods",
        "ConfigMap": f"/api/v1/namespaces/{namespace}/configmaps",
    }[kind]
    meta = stored["metadata"]
    metadata = {"name": meta["name"], "labels": meta.get("labels", {})}
    if owner is not None:
        metadata["ownerReferences"] = [{**meta["ownerReferences"][0], "uid": owner}]
    created = await administrator.create(path, {**stored, "kind": kind, "metadata": metadata})
    assert not created.refused, created.message
    if "status" not in stored:
        return created.body
    answer = await administrator.replace(f"{path}/{meta['name']}/status", {**created.body, "status": stored["status"]})
    assert not answer.refused, answer.message
    return answer.body


async def test_a_running_job_goes_on_and_its_worker_is_heard(version, server, namespace, administrator, start_operator):
    kubelet = FakeKubelet(server, namespace)
    stored = await _store(administrator, namespace, "TrainingJob", read(version, "running-job.json"), None)
    uid, former = stored["metadata"]["uid"], read(version, "running-job.json")
    assert (stored["spec"], stored["status"]) == (former["spec"], former["status"])
    pod = await _store(administrator, namespace, "Pod", read(version, "running-pod.json"), uid)
    await _store(administrator, namespace, "ConfigMap", read(version, "config-map.json"), uid)
    operator = start_operator(reports_service="localhost", status_interval=0.2)
    await operator.until_leading()

    secret = await server.request("GET", f"/api/v1/namespaces/{namespace}/secrets/trainwright-reports-ca", "secrets")
    context = ssl.create_default_context(cadata=base64.b64decode(secret["data"]["tls.crt"]).decode())
    url = f"https://localhost:{operator.reports_port}/v1/namespaces/{namespace}/jobs/digits/reports"
    token = await kubelet.token(pod, report_audience(namespace, "digits", uid))
    sent = read(version, "report.json")
    report = {**sent, "uid": uid, "step": sent["step"] + 10, "sequence": sent["sequence"] + 1000}
    async with aiohttp.ClientSession() as session:
        answer = await session.post(url, json=report, headers={"Authorization": f"Bearer {token}"}, ssl=context)
        assert answer.status == 204, await answer.text()
    status = await kubelet.until_status("digits", lambda status: status["progress"]["step"] == report["step"])
    assert (status["phase"], status["attempt"], status["restarts"]) == ("Running", 1, 0)
    (kept,) = await kubelet.pods("digits")
    assert kept["metadata"]["uid"] == pod["metadata"]["uid"]
    config_maps = await server.request("GET", f"/api/v1/namespaces/{namespace}/configmaps", "configmaps")
    assert len(config_maps["items"]) == 1

    succeeded = (version / "succeeded.json").read_text().replace(former["metadata"]["uid"], uid)
    await kubelet.set(pod, "Succeeded", exit_code=0, message=succeeded)
    status = await kubelet.until_status("digits", lambda status: status["phase"] == "Succeeded")
    expected = read(version, "finished-job.json")["status"]
    assert status["progress"]["step"] == expected["progress"]["step"]
    assert status["results"].keys() >= expected["results"].keys()
