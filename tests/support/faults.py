"""What can be done to a cluster and to what runs on it. Each is what an accident, or a person, would really do.

Nodes are containers of the Docker engine and carry its names. Nothing here waits for what Trainwright makes of a fault.
"""

import contextlib
import functools
import json
import time
from collections.abc import Iterator

import kube

_OPERATORS = "-l=app.kubernetes.io/component=operator"
_MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
_SIGNAL_RANKS = """
import os, pathlib
for comm in pathlib.Path("/proc").glob("[0-9]*/comm"):
    if comm.read_text().strip() == "rank-{number}":
        os.kill(int(comm.parent.name), {signal})
"""


# -- Pods and processes ------------------------------------------------------------------------------------------------


def delete_pod(namespace: str, name: str, *, force: bool = False) -> None:
    """Delete a pod; by force, nobody asks its processes or waits for them."""
    how = ("--grace-period=0", "--force") if force else ("--wait=false",)
    kube.kubectl("delete", "pod", name, f"--namespace={namespace}", "--ignore-not-found", *how)


def signal_rank(namespace: str, pod: str, signal: int, number: int = 0) -> None:
    """Send a signal to the process of one local rank of a worker pod."""
    script = _SIGNAL_RANKS.format(number=number, signal=signal)
    kube.kubectl("exec", pod, f"--namespace={namespace}", "--", "python", "-c", script, timeout=30)


def kill_operators(operator: str) -> None:
    """Kill every operator pod at once."""
    kube.kubectl("delete", "pod", f"--namespace={operator}", _OPERATORS, "--grace-period=0", "--force")


def leader(operator: str) -> str:
    """Return the name of the operator pod that holds the Lease; nothing if none does."""
    lease = kube.kubectl_json("get", "lease", "trainwright", f"--namespace={operator}")
    return lease["spec"].get("holderIdentity") or ""


def kill_leader(operator: str) -> str:
    """Kill the operator pod that leads, and return its name."""
    name = kube.wait_until(lambda: leader(operator), timeout=60, describe=lambda: "nobody leads")
    delete_pod(operator, name, force=True)
    return name


def lead_elsewhere(operator: str, node: str) -> None:
    """Kill operators that lead on this node until one on another node does: replacements prefer nodes without an operator."""

    def place() -> str:
        pods = kube.kubectl_json("get", "pods", f"--namespace={operator}", _OPERATORS)["items"]
        return {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in pods}.get(leader(operator), "")

    while kube.wait_until(place, timeout=60, describe=lambda: "nobody leads") == node:
        kill_leader(operator)


def await_rollout(operator: str, seconds: int = 120) -> None:
    """Wait until the operator's pods are those of its Deployment as it is now."""
    how = ("rollout", "status", "deployment", f"--namespace={operator}", f"--timeout={seconds}s")
    kube.kubectl(*how, timeout=seconds + 30)


@contextlib.contextmanager
def operator_with(operator: str, *values: str) -> Iterator[None]:
    """Have the chart installed with further values for a while."""
    chart = str(kube.ROOT / "charts" / "trainwright")
    upgrade = ("helm", "upgrade", "trainwright", chart, f"--namespace={operator}")
    before = kube.helm("get", "values", "trainwright", f"--namespace={operator}", "--output=json")
    kube.run(*upgrade, "--reuse-values", *values)
    try:
        await_rollout(operator)
        yield
    finally:
        kube.run(*upgrade, "--reset-values", "--values=-", stdin=before)
        await_rollout(operator)


def spare_silent_operators(operator: str) -> None:
    """Have kubelets leave an operator alone that does not answer for minutes, until the chart is installed anew."""
    probe = '--patch=[{"op":"remove","path":"/spec/template/spec/containers/0/livenessProbe"}]'
    kube.kubectl("patch", "deployment", "trainwright", f"--namespace={operator}", "--type=json", probe)
    await_rollout(operator)


# -- Nodes -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def silenced(node: str) -> Iterator[None]:
    """Stop every process of a node where it stands, as a frozen machine or a cut cable would."""
    kube.run("docker", "pause", node)
    try:
        yield
    finally:
        kube.run("docker", "unpause", node)
        kube.kubectl("wait", "node", node, "--for=condition=Ready", "--timeout=120s", timeout=150)


@contextlib.contextmanager
def drained(node: str) -> Iterator[None]:
    """Drain a node as an administrator does before maintenance, and let it be used again at the end."""
    try:
        kube.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s", timeout=150)
        yield
    finally:
        kube.kubectl("uncordon", node)


@contextlib.contextmanager
def burdened(node: str) -> Iterator[None]:
    """Have a node promise half of a CPU to a pod that does not use it: the scheduler prefers others meanwhile."""
    resources = {"requests": {"cpu": "500m"}}
    container = {
        "name": "main",
        "image": "trainwright/operator:dev",
        "command": ["sleep", "inf"],
        "resources": resources,
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "burden-"},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]},
    }
    name = kube.run("kubectl", "create", "--filename=-", "--output=name", stdin=json.dumps(pod)).strip()
    try:
        yield
    finally:
        kube.kubectl("delete", name, "--wait=false")


@contextlib.contextmanager
def frozen(namespace: str, pod: str) -> Iterator[None]:
    """Stop the first container of a pod where it stands; the rest of its node works on."""
    manifest = kube.kubectl_json("get", "pod", pod, f"--namespace={namespace}")
    container = manifest["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    signal = functools.partial(
        kube.run,
        "docker",
        "exec",
        manifest["spec"]["nodeName"],
        "ctr",
        "--namespace=k8s.io",
        "task",
        "kill",
        "--signal",
    )
    signal("SIGSTOP", container)
    try:
        yield
    finally:
        signal("SIGCONT", container)


def workers() -> list[str]:
    """Return the names of the nodes that pods run on."""
    nodes = kube.kubectl_json("get", "nodes", "-l=!node-role.kubernetes.io/control-plane")["items"]
    return sorted(node["metadata"]["name"] for node in nodes)


def offer_devices(node: str, kind: str, number: int | None) -> None:
    """Have a node say that it has so many devices of a kind; None takes the kind away."""
    # The kubelet would take what can be allocated from the capacity, but not at once.
    amount = {kind: None if number is None else str(number)}
    status = json.dumps({"status": {"capacity": amount, "allocatable": amount}})
    kube.kubectl("patch", "node", node, "--subresource=status", "--type=merge", f"--patch={status}")


def restart_kubelets() -> None:
    """Restart the kubelet of every worker node: it forgets the tokens that it gave to pods, and gets new ones."""
    names = workers()
    for node in names:
        kube.run("docker", "exec", node, "systemctl", "restart", "kubelet")
    for node in names:
        # A kubelet that begins anew takes away devices that no plugin of its own knows of.
        offer_devices(node, "nvidia.com/gpu", 2)


# -- The API server ----------------------------------------------------------------------------------------------------


@functools.cache
def control_plane() -> str:
    """Return the node of the API server; known from before the first fault."""
    (node,) = kube.kubectl_json("get", "nodes", "-l=node-role.kubernetes.io/control-plane")["items"]
    return str(node["metadata"]["name"])


def api_answers() -> bool:
    """Return whether the API server is ready."""
    with contextlib.suppress(kube.CommandError):
        return kube.kubectl("get", "--raw=/readyz", "--request-timeout=2s") == "ok"
    return False


def crash_api_server() -> None:
    """Kill the API server; its kubelet starts it again at once, and it is back within seconds."""
    kube.run("docker", "exec", control_plane(), "pkill", "-KILL", "kube-apiserver")


def restart_api_server() -> None:
    """Have the API server ended and started anew, as an upgrade of it does; it is back within a minute."""
    mark = f's/^  annotations:$/&\\n    trainwright.dev\\/restarted: "{time.time_ns()}"/'
    unmark = "/trainwright.dev.restarted/d"
    kube.run("docker", "exec", control_plane(), "sed", "-i", "-e", unmark, "-e", mark, _MANIFEST)


def forget_history() -> None:
    """Compact etcd up to now, as the API server does every few minutes: no watch can begin at an older version."""
    version = json.loads(kube.kubectl("get", "--raw=/api/v1/namespaces?limit=1"))["metadata"]["resourceVersion"]
    place = "/etc/kubernetes/pki/etcd"
    identity = ("--cacert", f"{place}/ca.crt", "--cert", f"{place}/server.crt", "--key", f"{place}/server.key")
    what = ("https://127.0.0.1:2379/v3/kv/compaction", "--data", json.dumps({"revision": version}))
    kube.run("docker", "exec", control_plane(), "curl", "--silent", "--fail", *identity, *what)


def await_api_server(seconds: float = 180) -> None:
    """Wait until the API server is ready, after it was not."""
    kube.wait_until(lambda: not api_answers(), timeout=seconds, describe=lambda: "the API server never went down")
    kube.wait_until(api_answers, timeout=seconds, describe=lambda: "the API server does not come back")
