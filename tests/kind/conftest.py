"""A cluster, the operator in it, and a namespace per test.

`make test` brings the cluster up if it is not there. A cluster that was up before stays up; so does one that the
tests made when TRAINWRIGHT_KEEP_CLUSTER is set.
"""

import contextlib
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import kube
import pytest

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
            # Bringing the cluster up for the first time takes longer than any test may: only the test itself is timed.
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(300, func_only=True))


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
def cluster(visibly) -> Iterator[None]:
    """A cluster with one control plane and two workers that have two GPUs each, or say so."""
    was_up = is_up()
    visibly("up")
    yield
    if not was_up and not os.environ.get("TRAINWRIGHT_KEEP_CLUSTER"):
        visibly("down")


@pytest.fixture(scope="session")
def images(cluster, visibly) -> None:
    """The operator's and the worker's image, built from this checkout, are on the worker nodes."""
    visibly("images")


@pytest.fixture(scope="session")
def operator(images, visibly) -> str:
    """The chart, installed where Pod Security `restricted` is enforced; the value is its namespace."""
    visibly("install")
    return SYSTEM


@pytest.fixture
def namespace(cluster, request) -> Iterator[str]:
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
