"""A real API server, started as plain processes on loopback, when etcd and kube-apiserver are on this machine."""

import asyncio
import itertools
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from definitions import JOBS, contradiction, definitions
from kubernetes.aio.client.configuration import Configuration
from person import Person

from trainwright.cluster.rest import ApiServer

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "test-admin"  # noqa: S105 - of a server that lives for one test run
EDITORS = "test-editors"
INVALID = 422
EDITOR_TOKEN = "test-editor"  # noqa: S105 - the same


def _binary(name: str) -> str | None:
    cached = Path.home() / ".cache" / "trainwright" / "kind" / "bin" / name
    return str(cached) if cached.exists() else shutil.which(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RunningServer:
    """Where the server is, and how to get in."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [{"name": "test", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
                    "users": [{"name": "test", "user": {"token": TOKEN}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                }
            )
        )

    def behind(self, url: str, folder: Path) -> "RunningServer":
        """Return the same server as it is reached through a proxy."""
        return RunningServer(url, folder)

    def connect(self, count=None) -> ApiServer:
        configuration = Configuration()
        configuration.host = self.url
        configuration.verify_ssl = False
        configuration.api_key["BearerToken"] = f"Bearer {TOKEN}"
        return ApiServer(configuration, count)

    def ready(self) -> bool:
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {TOKEN}"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=2, context=ssl._create_unverified_context()) as answer:  # noqa: S310, S323
                return bool(answer.status == 200)
        except OSError:
            return False


def _etcd(binary: str, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    client, peer = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
    command = [
        binary,
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=error",
    ]
    return subprocess.Popen(command, stderr=(folder / "etcd.log").open("wb")), client


def _apiserver(binary: str, folder: Path, etcd: str) -> tuple[subprocess.Popen[bytes], str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "sa.key").write_bytes(pem)
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n{EDITOR_TOKEN},editor,editor,{EDITORS}\n")
    port = _free_port()
    command = [
        binary,
        f"--etcd-servers={etcd}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certs'}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder / 'sa.key'}",
        f"--service-account-signing-key-file={folder / 'sa.key'}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--watch-cache=true",
    ]
    return subprocess.Popen(command, stderr=(folder / "apiserver.log").open("wb")), f"https://127.0.0.1:{port}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _serving(folder: Path) -> Iterator[RunningServer]:
    etcd_binary, server_binary = _binary("etcd"), _binary("kube-apiserver")
    if etcd_binary is None or server_binary is None:
        pytest.skip(
            "needs the programs etcd and kube-apiserver, which are there once tests/kind/cluster/up has made a cluster"
        )
    etcd, etcd_url = _etcd(etcd_binary, folder)
    process, url = _apiserver(server_binary, folder, etcd_url)
    try:
        running = RunningServer(url, folder)
        deadline = time.monotonic() + 120
        while not running.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"kube-apiserver does not start:\n{(folder / 'apiserver.log').read_text()[-3000:]}")
            time.sleep(0.2)
        yield running
    finally:
        _stop(process)
        _stop(etcd)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with _serving(tmp_path_factory.mktemp("apiserver")) as running:
        _install_definitions(running)
        yield running


@pytest.fixture(scope="module")
def empty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Another one, on which nothing of ours is installed."""
    with _serving(tmp_path_factory.mktemp("empty")) as running:
        yield running


def _install_definitions(running: RunningServer) -> None:
    """Install what the operator needs, and wait until all of it is in force."""

    async def install() -> None:
        async with asyncio.timeout(60), Person(running.url, TOKEN) as person:
            for path, manifest in definitions():
                answer = await person.create(path, manifest)
                assert not answer.refused, answer.message
            # The CRD is established when jobs are known, and the policy in force when this one is judged.
            jobs = JOBS.format(namespace="default")
            while (await person.create(f"{jobs}?dryRun=All", contradiction())).code != INVALID:  # noqa: ASYNC110 - the server is another process
                await asyncio.sleep(0.1)

    asyncio.run(install())


@pytest.fixture
async def server(api_server: RunningServer):
    connection = api_server.connect()
    yield connection
    await connection.close()


_COUNT = iter(range(1_000_000))


@pytest.fixture
async def namespace(server: ApiServer) -> str:
    name = f"test-{os.getpid()}-{next(_COUNT)}"
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    await server.request("POST", "/api/v1/namespaces", "namespaces", manifest)
    # The controller that makes this one in a whole cluster does not run here.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    await server.request("POST", f"/api/v1/namespaces/{name}/serviceaccounts", "serviceaccounts", account)
    return name


@pytest.fixture
async def administrator(api_server: RunningServer):
    """Somebody who may do everything."""
    async with Person(api_server.url, TOKEN) as person:
        yield person


@pytest.fixture
async def editor(api_server: RunningServer, administrator: Person, namespace: str):
    """Somebody who may edit the test's namespace: with Kubernetes' own role for that, and with what the chart adds to it."""
    roles = ["system:aggregate-to-edit", "system:aggregate-to-view"]
    for manifest in _of_the_chart("ClusterRole"):
        name = manifest["metadata"]["name"]
        if name.endswith(("-view", "-edit")):
            await administrator.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", manifest)
            roles.append(name)
    for role in roles:
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": role.replace(":", "-")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": EDITORS}],
        }
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"
        answer = await administrator.create(path, binding)
        assert not answer.refused, answer
    async with Person(api_server.url, EDITOR_TOKEN) as person:
        yield person


@pytest.fixture
async def admission(administrator: Person, namespace: str) -> None:
    """The chart's admission policy, in force."""
    group = "/apis/admissionregistration.k8s.io/v1"
    for policy in _of_the_chart("ValidatingAdmissionPolicy"):
        await administrator.create(f"{group}/validatingadmissionpolicies", policy)
    for binding in _of_the_chart("ValidatingAdmissionPolicyBinding"):
        await administrator.create(f"{group}/validatingadmissionpolicybindings", binding)
    pods, label = f"/api/v1/namespaces/{namespace}/pods", "trainwright.dev/job-name"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "guarded", "labels": {label: "none"}},
        "spec": {"containers": [{"name": "none", "image": "none"}]},
    }
    assert not (await administrator.create(pods, pod)).refused
    async with asyncio.timeout(60):
        for attempt in itertools.count():
            patch = {"metadata": {"labels": {label: f"{attempt}"}}}
            if (await administrator.merge(f"{pods}/guarded", patch)).refused:
                break
            await asyncio.sleep(0.1)
    await administrator.delete(f"{pods}/guarded")


def _of_the_chart(kind: str) -> list[dict[str, Any]]:
    """Return the objects of a kind that the chart makes with its default values."""
    manifests = yaml.safe_load_all((ROOT / "manifests" / "base" / "operator.yaml").read_text())
    return [manifest for manifest in manifests if manifest["kind"] == kind]


class OperatorProcess:
    """`trainwright operator` as its own process, against the test's API server."""

    def __init__(self, running: RunningServer, folder: Path, namespace: str, **settings: object) -> None:
        self.health = f"http://127.0.0.1:{settings.setdefault('health_port', _free_port())}"
        self.reports_port = settings.setdefault("reports_port", _free_port())
        self.log = folder / f"operator-{settings['health_port']}.log"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TRAINWRIGHT_")},
            "KUBECONFIG": str(running.kubeconfig),
            "TRAINWRIGHT_OPERATOR_NAMESPACE": namespace,
            "TRAINWRIGHT_NAMESPACES": namespace,
            **{f"TRAINWRIGHT_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("trainwright"), "operator"], env=environment, stderr=self.log.open("wb")
        )

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.health + path, timeout=5) as answer:  # noqa: S310 - loopback
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metric(self, line: str) -> float:
        for found in self.get("/metrics")[1].splitlines():
            if found.startswith(line + " "):
                return float(found.rsplit(" ", 1)[1])
        return float("nan")

    async def until_leading(self) -> None:
        """Wait until this replica works."""
        deadline = time.monotonic() + 60
        while self.metric("trainwright_leading") != 1:
            late = self.process.poll() is not None or time.monotonic() > deadline
            assert not late, f"the operator does not lead:\n{self.log.read_text()[-4000:]}"
            await asyncio.sleep(0.05)

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture
def start_operator(api_server: RunningServer, tmp_path: Path, namespace: str):
    started: list[OperatorProcess] = []

    def start(through: RunningServer = api_server, **settings: object) -> OperatorProcess:
        started.append(OperatorProcess(through, tmp_path, namespace, **settings))
        return started[-1]

    yield start
    for operator in started:
        _stop(operator.process)
        sys.stdout.write(operator.log.read_text())  # pytest shows it when the test failed
