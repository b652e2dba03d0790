"""A cluster, the operator in it, and a namespace per test.

The tests bring the cluster up if it is not there. A cluster that was up before stays up; so does one that the tests made
when TRAINWRIGHT_KEEP_CLUSTER is set.

Tests run beside each other, in several processes, except those in `alone`: these take something away from the whole
cluster (a node, the API server, the operator) or count what the whole operator does.
"""

import contextlib
import fcntl
import os
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import faults
import kube
import pytest
import xdist

SYSTEM = "trainwright-system"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"

VOLUME = """
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {namespace}-checkpoints}}
spec:
  capacity: {{storage: 10Gi}}
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  claimRef: {{namespace: {namespace}, name: checkpoints}}
  hostPath: {{path: /shared/{namespace}, type: Directory}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: checkpoints, namespace: {namespace}}}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: ""
  volumeName: {namespace}-checkpoints
  resources: {{requests: {{storage: 10Gi}}}}
"""


@pytest.hookimpl(tryfirst=True)  # before `-m 'not kind'` looks at marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kind)
            # Neither bringing the cluster up nor waiting for other tests counts: only the test itself is timed.
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(300, func_only=True))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Delete a cluster that was made for the tests, once all processes are done with it."""
    if not xdist.is_xdist_worker(session) and kube.is_temporary() and not os.environ.get("TRAINWRIGHT_KEEP_CLUSTER"):
        subprocess.run([kube.CLUSTER / "down"], check=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test says what the cluster looked like, while its objects are still there."""
    report = (yield).get_result()
    if report.failed and report.when in {"setup", "call"} and is_up():
        namespace = getattr(item, "funcargs", {}).get("namespace")
        report.sections.append(("cluster", kube.dump(namespace)))


def is_up() -> bool:
    with contextlib.suppress(kube.CommandError, FileNotFoundError, subprocess.SubprocessError):
        return bool(kube.kubectl("get", "nodes", "--request-timeout=10s"))
    return False


@pytest.fixture(scope="session")
def visibly(pytestconfig):
    """Runs one of the cluster's scripts with its progress on the terminal: some take minutes."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def run(script: str, *args: str) -> None:
        with capture.global_and_fixture_disabled():
            subprocess.run([kube.CLUSTER / script, *args], check=True)

    return run


@pytest.fixture(scope="session")
def cluster(visibly, request, tmp_path_factory) -> None:
    """A cluster with one control plane, two workers that have two GPUs each, or say so, and the operator.

    The chart and both images of this checkout are installed by the first process of a test run, and the others wait.
    """
    folder = tmp_path_factory.getbasetemp()
    made = (folder.parent if xdist.is_xdist_worker(request) else folder) / "cluster-is-made"
    with made.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if made.stat().st_size == 0:
            with kube.in_use(alone=False):
                visibly("up", "--temporary")
                visibly("images")
                visibly("install")
            file.write("yes")


@pytest.fixture(scope="session")
def operator(cluster) -> str:
    """The namespace of the operator, in which Pod Security `restricted` is enforced."""
    return SYSTEM


@pytest.fixture(autouse=True)
def turn(cluster, request) -> Iterator[None]:
    """The use of the cluster, beside other tests or alone."""
    with kube.in_use(alone="alone" in request.node.path.parts):
        yield


@pytest.fixture
def offer(turn, namespace) -> Iterator[Callable[..., str]]:
    """Return a function by which nodes offer so many of a device that is this test's own; it returns the device's name."""
    device = f"{namespace}.example.com/gpu"
    nodes = faults.workers()

    def set_numbers(*numbers: int | None) -> str:
        for node, number in zip(nodes, numbers, strict=True):
            faults.offer_devices(node, device, number)
        return device

    yield set_numbers
    set_numbers(None, None)


@pytest.fixture
def namespace(turn, request) -> Iterator[str]:
    """A namespace of the test's own that enforces `restricted`, with a claim `checkpoints` on shared storage."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    name = f"{words[:40].strip('-')}-{secrets.token_hex(2)}"
    folder = kube.shared_folder() / name
    folder.mkdir()
    folder.chmod(0o777)  # a hostPath volume knows no fsGroup
    kube.apply(f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}")
    kube.kubectl("label", "namespace", name, RESTRICTED)
    kube.apply(VOLUME.format(namespace=name))
    yield name
    # Its jobs would train on until the namespace is cleared, which takes its time.
    for kind in ("trainingjobs", "pods"):
        kube.kubectl("delete", kind, "--all", f"--namespace={name}", "--wait=false", "--ignore-not-found")
    kube.kubectl("delete", "namespace", name, "--wait=false")
    kube.kubectl("delete", "persistentvolume", f"{name}-checkpoints", "--wait=false")
