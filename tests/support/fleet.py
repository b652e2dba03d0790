"""Jobs for a chaos run: each kind is trained once undisturbed, then over and over while things break, to the same bits."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jobs
import kube
from history import History

Manifest = dict[str, Any]

WITNESS = "witness"
"""A job that nothing is done to directly: whatever befalls operators and control planes, it trains on."""


def _job(name: str, count: int, training: Manifest, **spec: Any) -> Manifest:
    workers = {"count": count, "topologySpreadConstraints": [jobs.spread(name)], "terminationGracePeriodSeconds": 15}
    return jobs.manifest(name, workers=workers, training={"deterministic": True, "seed": 7, **training}, **spec)


def pair(name: str) -> Manifest:
    """Two workers under DDP; a small CNN with dropout on handwritten digits."""
    return _job(
        name,
        2,
        {"steps": 600},
        model={"name": "cnn", "args": {"channels": [8], "hidden": [32]}},
        dataset={"builtin": {"name": "digits"}},
        regularization={"dropout": 0.2},
        evaluation={"everySteps": 200},
        checkpoint={"everySteps": 50},
        restart={"limit": 10, "backoffSeconds": 1},
    )


def trio(name: str) -> Manifest:
    """Three workers whose model and optimizer are sharded over them."""
    return _job(
        name,
        3,
        {"steps": 300, "globalBatchSize": 48},
        parallelism="fsdp",
        model={"name": "mlp", "args": {"hidden": [48, 48]}},
        optimizer={"name": "adamw"},
        evaluation={"everySteps": 100},
        checkpoint={"everySteps": 25},
        restart={"limit": 10, "backoffSeconds": 2},
    )


def solo(name: str) -> Manifest:
    """One worker that saves rarely and keeps little."""
    return _job(
        name,
        1,
        {"steps": 4000},
        evaluation={"everySteps": 1000},
        checkpoint={"everySteps": 500, "keep": 2},
        restart={"limit": 10, "backoffSeconds": 1},
    )


KINDS = {"pair": pair, "trio": trio, "solo": solo}


def witness(node: str) -> Manifest:
    """Return the witness, on a node of its own choice, where it takes little from the others."""
    resources = {"requests": {"cpu": "100m", "memory": "300Mi"}, "limits": {"cpu": "200m"}}
    workers = {"count": 1, "nodeSelector": {"kubernetes.io/hostname": node}, "resources": resources}
    return jobs.manifest(WITNESS, training={"steps": 100_000_000}, checkpoint={"everySteps": 5_000}, workers=workers)


@dataclass
class Fleet:
    """The jobs of one run.

    Attributes:
        reference: By kind, the checksum of the weights of an undisturbed run.
        finished: Jobs that ended with these very weights.
        lost: What ended otherwise, in words.
    """

    namespace: str
    history: History
    reference: dict[str, str] = field(default_factory=dict)
    finished: int = 0
    lost: list[str] = field(default_factory=list)
    _rounds: dict[str, int] = field(default_factory=dict)
    _over: set[str] = field(default_factory=set)

    def train_undisturbed(self, seconds: float) -> None:
        """Run every kind once, and remember what came of it."""
        for kind, make in KINDS.items():
            kube.apply(make(f"{kind}-0"), self.namespace)
        for kind in KINDS:
            status = jobs.wait_for(self.namespace, f"{kind}-0", jobs.succeeded, timeout=seconds)
            assert status["restarts"] == 0
            self.reference[kind] = self._weights(status)
            kube.kubectl("delete", "tj", f"{kind}-0", f"--namespace={self.namespace}")

    def victims(self) -> list[str]:
        """Return the names of the jobs that faults may be aimed at: those that train."""
        phases = {name: life.status.get("phase") for name, life in self.history.lives.items() if name != WITNESS}
        return [name for name, phase in phases.items() if phase in ("Starting", "Running", "Restarting")]

    def tend(self, *, replace: bool = True) -> bool:
        """Judge what has ended, and start a new job in its place; return whether any job is not over yet."""
        for kind, make in KINDS.items():
            name = f"{kind}-{self._rounds.get(kind, 0)}"
            life = self.history.lives.get(name)
            if kind in self._rounds and (life is None or life.status.get("phase") not in ("Succeeded", "Failed")):
                continue
            if life is not None and name not in self._over:
                self._over.add(name)
                self._judge(kind, make(name), life.status)
            if replace:
                number = self._rounds.get(kind, 0) + 1
                kube.apply(make(f"{kind}-{number}"), self.namespace)
                self._rounds[kind] = number
        return len(self._over) < sum(self._rounds.values())

    def newest_checkpoint(self, name: str) -> Path:
        """Return the folder of a job's newest checkpoint on this machine.

        Raises:
            LookupError: It has none.
        """
        return self._local(self.history.lives[name].status["checkpoints"][-1]["path"])

    def _judge(self, kind: str, manifest: Manifest, status: Manifest) -> None:
        name, wanted = manifest["metadata"]["name"], manifest["spec"]["training"]["steps"]
        if status["phase"] == "Failed":
            self.lost.append(f"{name} failed: {status['message']}")
        elif status["progress"]["step"] != wanted:
            self.lost.append(f"{name} ended at step {status['progress']['step']} of {wanted}")
        elif self._weights(status) != self.reference[kind]:
            self.lost.append(f"{name} has other weights than an undisturbed run")
        else:
            self.finished += 1

    def _weights(self, status: Manifest) -> str:
        return hashlib.sha256(self._local(status["results"]["weights"]).read_bytes()).hexdigest()

    def _local(self, path: str) -> Path:
        return kube.shared_folder() / self.namespace / path.removeprefix("/checkpoints/")
