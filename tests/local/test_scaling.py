"""Changing the number of workers while the job runs: real controller, real plan, real workers, no cluster."""

import asyncio
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from trainwright.api.status import Phase, read_status
from trainwright.cli.local.folder import RunFolder
from trainwright.cli.local.session import End, Session
from trainwright.cluster.local import Folders

pytestmark = pytest.mark.local

PATIENCE = 240.0
STEPS = 8000


def a_job(workers):
    return {
        "apiVersion": "trainwright.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "digits", "namespace": "default"},
        "spec": {
            "model": {"name": "linear"},
            "dataset": {"builtin": {"name": "digits"}},
            "optimizer": {"name": "sgd", "learningRate": 0.01, "momentum": 0.9},
            "regularization": {"l2": 0.01},
            "training": {"steps": STEPS, "globalBatchSize": 64},
            "evaluation": {"everySteps": STEPS},
            "checkpoint": {"everySteps": 200, "persistentVolumeClaim": "checkpoints"},
            "workers": {"count": workers, "env": [{"name": "OMP_NUM_THREADS", "value": "1"}]},
        },
    }


class Run:
    """A job in this process's own loop."""

    def __init__(self, folder: Path, job) -> None:
        self.folder = RunFolder.create(folder, "digits")
        self.seen = []
        self.session = Session(
            job, Folders(run=self.folder.path, data=folder, volumes={}), self.folder, self.seen.append, lambda _: None
        )
        self.task = asyncio.create_task(self.session.run())

    @property
    def status(self):
        return self.seen[-1]

    async def until(self, holds):
        """Return the first status, the present one or a later one, for which this holds."""
        number = max(0, len(self.seen) - 1)
        async with asyncio.timeout(PATIENCE):
            while not any(holds(status) for status in self.seen[number:]):
                assert not self.task.done(), self.status
                await asyncio.sleep(0.05)
        return next(status for status in self.seen[number:] if holds(status))

    def resize(self, count):
        cluster, key = self.session._cluster, self.session._key
        job = cluster.get_job(key)
        metadata = {**job["metadata"], "generation": job["metadata"].get("generation", 1) + 1}
        workers = {**job["spec"]["workers"], "count": count}
        cluster.update({**job, "metadata": metadata, "spec": {**job["spec"], "workers": workers}})

    async def end(self):
        job, end = await asyncio.wait_for(self.task, PATIENCE)
        assert end == End()
        status = read_status(job["status"])
        assert status.phase == Phase.SUCCEEDED, status.message
        return status

    @property
    def results(self):
        return next(self.folder.path.glob("digits-*/results"))

    @property
    def losses(self):
        return [entry["loss"] for entry in json.loads((self.results / "results.json").read_text())["history"]]

    @property
    def weights(self):
        return safetensors.torch.load_file(self.results / "weights.safetensors")


def test_one_worker_three_workers_two_workers_learn_what_one_learns(tmp_path):
    async def tell():
        alone = Run(tmp_path, a_job(1))
        await alone.end()
        run = Run(tmp_path, a_job(1))
        await run.until(lambda status: status.progress.step >= 300)
        for attempt, count in ((2, 3), (3, 2)):
            before = run.status
            run.resize(count)
            scaling = await run.until(lambda status, count=count: status.workers.desired == count)
            assert scaling.workers.formerly == before.workers.desired
            assert f"scaling from {before.workers.desired} to {count} workers" in scaling.message
            going_on = await run.until(
                lambda status, before=before: (
                    status.phase == Phase.RUNNING and status.progress.step >= before.progress.step + 150
                )
            )
            assert (going_on.attempt, going_on.workers.training) == (attempt, count)
            assert going_on.progress.resumed_from_step >= before.progress.step
        status = await run.end()
        assert (status.restarts, status.progress.replayed_steps, status.failure) == (0, 0, None)
        return alone, run

    alone, run = asyncio.run(tell())
    assert run.status.progress.samples == alone.status.progress.samples
    assert run.losses == pytest.approx(alone.losses, rel=1e-4)
    for name, expected in alone.weights.items():
        torch.testing.assert_close(run.weights[name], expected, rtol=0, atol=1e-4)
