"""Writes down what the present version stores and sends: `make record-version`, once, before a release.

Not a test: a real operator on a real API server, and a real worker that reports to it, leave behind what later versions have to
understand. See tests/versions/README.md.
"""

import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from kubelet import FakeKubelet
from manifests import job

from trainwright import __version__
from trainwright.api.crd import crd
from trainwright.api.names import CA_FILE, CONFIG_FILE, report_audience
from trainwright.cluster.kubernetes import KubernetesCluster
from trainwright.manifests import dump
from versions import FOLDER

SPEC = {
    "model": {"name": "mlp", "args": {"hidden": [8]}},
    "dataset": {"builtin": {"name": "digits"}, "split": {"validation": 0.2, "test": 0.1}},
    "optimizer": {"name": "adamw", "learningRate": 0.001, "weightDecay": 0.01},
    "schedule": {"name": "cosine", "warmupSteps": 20},
    "regularization": {"dropout": 0.1, "l2": 0.0001},
    "training": {"steps": 15_000, "globalBatchSize": 64, "gradientClipping": 1.0, "seed": 7},
    "evaluation": {"everySteps": 1000, "metrics": ["accuracy", "f1"]},
    "checkpoint": {"persistentVolumeClaim": "checkpoints", "everySteps": 1000, "keep": 2},
    "restart": {"limit": 5, "backoffSeconds": 3, "onFailure": {"Data": "restart"}},
    "health": {"nonFinite": "skip", "hang": {"minSeconds": 90}},
    "workers": {"resources": {"requests": {"cpu": "1"}}, "env": [{"name": "OMP_NUM_THREADS", "value": "1"}]},
    "activeDeadlineSeconds": 86_400,
    "ttlSecondsAfterFinished": 86_400,
}


class Relay:
    """Takes the worker's reports, keeps the newest that shows steps, and passes all on to the operator."""

    def __init__(self, port: int, host: str, ca: str) -> None:
        self.newest = b""
        relay, context = self, ssl.create_default_context(cadata=ca)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                relay.newest = body if json.loads(body).get("heartbeats") else relay.newest
                onward = http.client.HTTPSConnection(host, port, context=context)
                onward.request("POST", self.path, body, {"Authorization": self.headers["Authorization"]})
                self.send_response(onward.getresponse().status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def start_worker(config: dict, folder: Path) -> subprocess.Popen:
    """Start a worker on this machine, with the config of its pod except for where things are."""
    folder.mkdir(exist_ok=True)
    (folder / "worker.json").write_text(json.dumps(config))
    environment = {
        "TRAINWRIGHT_CONFIG": str(folder / "worker.json"),
        "TRAINWRIGHT_ATTEMPT": "1",
        "TRAINWRIGHT_POD_NAME": "digits-0-1",
        "TRAINWRIGHT_TERMINATION_LOG": str(folder / "termination.json"),
    }
    return subprocess.Popen([sys.executable, "-m", "trainwright_worker"], env={**os.environ, **environment})


async def test_record_what_this_version_writes(server, namespace, start_operator, tmp_path):
    target, volume = FOLDER / __version__, tmp_path / "volume"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()

    def write(name, content):
        if isinstance(content, dict) and "metadata" in content:
            content["metadata"].pop("managedFields", None)
        text = content if isinstance(content, str) else json.dumps(content, indent=1) + "\n"
        (target / name).write_text(text.replace(namespace, "team").replace(str(volume), "/checkpoints"))

    kubelet = FakeKubelet(server, namespace)
    operator = start_operator(
        reports_service="localhost", status_interval=0.2, report_interval=0.5, worker_image=f"worker:{__version__}"
    )
    await operator.until_leading()
    uid = (await KubernetesCluster(server).create({**job(namespace), "spec": SPEC}))["metadata"]["uid"]
    (pod,) = await kubelet.until_pods("digits", lambda pods: len(pods) == 1)
    await kubelet.set(pod, "Running")
    mounted = await kubelet.config_map(pod)
    relay = Relay(operator.reports_port, "localhost", mounted["data"][CA_FILE])
    token = tmp_path / "token"
    token.write_text(await kubelet.token(pod, report_audience(namespace, "digits", uid)))
    config = json.loads(mounted["data"][CONFIG_FILE])
    url = config["reports"]["url"].replace(config["reports"]["url"].partition("/v1/")[0], relay.url)
    here = {
        **config,
        "checkpointRoot": str(volume),
        "reports": {**config["reports"], "url": url, "tokenFile": str(token)},
    }
    worker = start_worker(here, tmp_path / "worker")

    await kubelet.until_status("digits", lambda status: status.get("phase") == "Running" and status.get("checkpoints"))
    await kubelet.until_status("digits", lambda status: status["metrics"].get("evaluation"))
    write("running-job.json", await kubelet.job("digits"))
    path = f"/api/v1/namespaces/{namespace}/pods/digits-0-1"
    write("running-pod.json", await server.request("GET", path, "pods"))
    write("config-map.json", mounted)
    write("report.json", json.loads(relay.newest))
    (saved,) = sorted((volume / f"digits-{uid}" / "checkpoints").glob("step-*"))[-1:]
    shutil.copytree(saved, target / "checkpoint")

    assert worker.wait(120) == 0
    succeeded = (tmp_path / "worker" / "termination.json").read_text()
    write("succeeded.json", json.loads(succeeded))
    await kubelet.set(pod, "Succeeded", exit_code=0, message=succeeded)
    await kubelet.until_status("digits", lambda status: status.get("phase") == "Succeeded")
    write("finished-job.json", await kubelet.job("digits"))

    wrong = {**here, "uid": "none", "spec": {**here["spec"], "dataset": {"csv": {"path": "none.csv", "target": "y"}}}}
    wrong["reports"] = None
    assert start_worker(wrong, tmp_path / "wrong").wait(120) != 0
    write("failed.json", json.loads((tmp_path / "wrong" / "termination.json").read_text()))
    write("crd.yaml", dump(crd()))
    relay.close()
