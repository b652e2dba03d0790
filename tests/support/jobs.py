"""TrainingJobs for the kind tests, and what they say of themselves."""

import copy
from collections.abc import Callable
from typing import Any

import kube

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
    },
}


def manifest(name: str, **spec: Any) -> Manifest:
    """Return a small job of two workers; `spec` replaces parts of its spec, merging mappings one level deep."""
    result = copy.deepcopy(_BASE)
    result["metadata"]["name"] = name
    for field, value in spec.items():
        current = result["spec"].get(field)
        merge = isinstance(current, dict) and isinstance(value, dict) and field in ("training", "checkpoint", "workers")
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


def running_at(step: int) -> Callable[[Manifest], bool]:
    """Return the condition that the job runs and has done so many steps."""
    return lambda now: now.get("phase") == "Running" and now.get("progress", {}).get("step", 0) >= step


def succeeded(now: Manifest) -> bool:
    """Return whether the job has succeeded."""
    return now.get("phase") == "Succeeded"
