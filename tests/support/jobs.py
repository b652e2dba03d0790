"""TrainingJobs for the kind tests, and what they say of themselves."""

import copy
from collections.abc import Callable
from typing import Any

import faults
import kube
from prometheus_client.parser import text_string_to_metric_families

Manifest = dict[str, Any]

_BASE: Manifest = {
    "apiVersion": "trainwright.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "job"},
    "spec": {
        "model": {"name": "mlp", "args": {"hidden": [32]}},
        "dataset": {"synthetic": {"kind": "clusters", "samples": 2000, "features": 16}},
        "training": {"steps": 200, "globalBatchSize": 64},
        "checkpoint": {"persistentVolumeClaim": "checkpoints", "everySteps": 50},
        "workers": {"count": 2, "resources": {"requests": {"cpu": "100m", "memory": "300Mi"}}},
        "scheduling": {"gang": "none"},
    },
}

_MERGED = ("training", "checkpoint", "workers", "scheduling")


def manifest(name: str, **spec: Any) -> Manifest:
    """Return a small job of two workers; `spec` replaces parts of its spec, merging mappings one level deep."""
    result = copy.deepcopy(_BASE)
    result["metadata"]["name"] = name
    for field, value in spec.items():
        current = result["spec"].get(field)
        merge = isinstance(current, dict) and isinstance(value, dict) and field in _MERGED
        result["spec"][field] = {**current, **value} if merge else value
    return result


def endless(name: str, **spec: Any) -> Manifest:
    """Return a job that trains for minutes unless something happens to it."""
    return manifest(name, training={"steps": 1_000_000}, **spec)


def spread(name: str) -> Manifest:
    """Return the demand that a job's pods share out the nodes evenly, as long as there are several."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"trainwright.dev/job-name": name}},
    }


def on_two_nodes(name: str) -> Manifest:
    """Return an endless job of two workers that never share a node as long as there are two."""
    workers = {"topologySpreadConstraints": [spread(name)], "terminationGracePeriodSeconds": 15}
    return endless(name, workers=workers)


def get(namespace: str, name: str) -> Manifest:
    """Return the job as the cluster holds it."""
    return kube.kubectl_json("get", "tj", name, f"--namespace={namespace}")


def status(namespace: str, name: str) -> Manifest:
    """Return the job's status."""
    return get(namespace, name).get("status", {})


def pods(namespace: str, name: str) -> list[Manifest]:
    """Return the job's pods."""
    return kube.kubectl_json("get", "pods", f"--namespace={namespace}", f"-l=trainwright.dev/job-name={name}")["items"]


def pod(namespace: str, name: str) -> Manifest:
    """Return one pod."""
    return kube.kubectl_json("get", "pod", name, f"--namespace={namespace}")


def nodes(namespace: str, name: str) -> list[str]:
    """Return the nodes on which the workers of a job were placed, in the order of their index; none while one waits."""
    placed = sorted(
        pods(namespace, name), key=lambda pod: int(pod["metadata"]["labels"]["trainwright.dev/worker-index"])
    )
    found = [str(pod["spec"].get("nodeName", "")) for pod in placed]
    return found if len(found) == get(namespace, name)["spec"]["workers"]["count"] and all(found) else []


def crossed(namespace: str, first: str, second: str) -> str:
    """Have two endless jobs of two workers trade places: return the node of the first's worker 0 and the second's worker 1."""
    kube.apply(on_two_nodes(first), namespace)
    node, _ = _placed(namespace, first)
    with faults.burdened(node):  # so that the scheduler prefers the other for the second's worker 0
        while True:
            kube.apply(on_two_nodes(second), namespace)
            if _placed(namespace, second)[1] == node:
                return node
            kube.kubectl("delete", "tj", second, f"--namespace={namespace}", "--timeout=60s")
            kube.wait_until(lambda: not pods(namespace, second), timeout=60, describe=lambda: pods(namespace, second))


def uids(namespace: str, name: str) -> set[str]:
    """Return what tells the job's pods from others of their names."""
    return {pod["metadata"]["uid"] for pod in pods(namespace, name)}


def _placed(namespace: str, name: str) -> list[str]:
    return kube.wait_until(lambda: nodes(namespace, name), timeout=60, describe=lambda: pods(namespace, name))


def wait_for(namespace: str, name: str, holds: Callable[[Manifest], Any], timeout: float = 120) -> Manifest:
    """Wait until the status satisfies `holds`, and return it.

    A job that ends differently than asked for is not waited for any longer.
    """

    def check() -> Manifest | None:
        now = status(namespace, name)
        if holds(now):
            return now
        if now.get("phase") in ("Succeeded", "Failed"):
            raise AssertionError(f"{name} ended as {now['phase']}: {now.get('message')} {now.get('failure')}")
        return None

    return kube.wait_until(check, timeout=timeout, describe=lambda: str(status(namespace, name)))


def operator_metrics(operator: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the leading operator's metrics by name and labels, read as Prometheus reads them.

    The Service would do if there were no others: one that was on a silent node is in it until its kubelet has ended it.
    """
    path = f"/api/v1/namespaces/{operator}/pods/{faults.leader(operator)}:8080/proxy/metrics"
    families = text_string_to_metric_families(kube.kubectl("get", "--raw", path))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def wait_until_nothing_is_left(namespace: str, name: str) -> None:
    """Wait until everything is gone that was made for a job."""
    what = ("pods,configmaps,services,networkpolicies", f"-l=trainwright.dev/job-name={name}")

    def left() -> str:
        return kube.kubectl("get", *what, f"--namespace={namespace}", "--output=name").strip()

    kube.wait_until(lambda: not left(), timeout=120, describe=left)


def running_at(step: int) -> Callable[[Manifest], bool]:
    """Return the condition that the job runs and has done so many steps."""
    return lambda now: now.get("phase") == "Running" and now.get("progress", {}).get("step", 0) >= step


def succeeded(now: Manifest) -> bool:
    """Return whether the job has succeeded."""
    return now.get("phase") == "Succeeded"
