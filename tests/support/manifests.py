"""Manifests that tests apply: the shortest valid job, and a pod that looks like one of its workers."""

from typing import Any

from trainwright.api.names import API_VERSION, KIND, LABEL_JOB


def job(namespace: str, name: str = "digits", workers: int = 1, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"layers": [{"dense": {"units": 10}}]},
            "dataset": {"builtin": {"name": "digits"}},
            "optimizer": {"name": "adam", "learningRate": 0.001},
            "training": {"epochs": 1, "globalBatchSize": 64},
            "workers": {"count": workers},
            "checkpoint": {"persistentVolumeClaim": "checkpoints"},
            **spec,
        },
    }


def pod(namespace: str, name: str = "digits-0-1", job_name: str = "digits") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {LABEL_JOB: job_name}},
        "spec": {"serviceAccountName": "default", "containers": [{"name": "worker", "image": "none"}]},
    }
