"""Checkpoints on a volume and in an object store: resumed, kept, killed in the middle, damaged. The store is a real S3 API."""

import os
import re
import signal

import pytest
import torch
from corpora import object_store

from trainwright.api.exit_codes import ExitCode
from trainwright_worker.checkpoint.folder import CheckpointFolder
from trainwright_worker.checkpoint.staging import Staging
from trainwright_worker.storage import open_storage

from .conftest import wait_for

pytestmark = pytest.mark.local

BUCKET = "models"
MANIFEST = "manifest.json"


class Bucket:
    """An S3 bucket that workers reach over HTTP."""

    def __init__(self, store):
        self.env = store.env
        self._files = store.files

    def names(self, folder=""):
        return [path.removeprefix(f"{BUCKET}/") for path in self._files.find(f"{BUCKET}/{folder}")]

    def read(self, key):
        return self._files.cat_file(f"{BUCKET}/{key}")

    def write(self, key, content):
        self._files.pipe_file(f"{BUCKET}/{key}", content)

    def delete(self, key):
        self._files.rm_file(f"{BUCKET}/{key}")


@pytest.fixture(scope="module")
def bucket():
    with object_store(BUCKET) as store:
        yield Bucket(store)


def spec_of(steps=60, hidden=64, processes=1, parallelism="ddp", **checkpoint):
    return {
        "model": {"name": "mlp", "args": {"hidden": [hidden, hidden]}},
        "dataset": {"builtin": {"name": "digits"}},
        "training": {"steps": steps, "globalBatchSize": 64, "deterministic": True, "seed": 3},
        "evaluation": {"everySteps": 20},
        "checkpoint": {"everySteps": 10, **checkpoint},
        "workers": {"processesPerWorker": processes},
        "parallelism": parallelism,
    }


def steps_in(names):
    return sorted({int(found[1]) for name in names if (found := re.search(r"step-(\d+)/" + MANIFEST, name))})


def test_a_bucket_holds_checkpoints_and_results_and_resumes_from_them(make_job, bucket):
    straight = make_job(spec_of(keepBest=True), "straight")
    straight.run()
    uri = f"s3://{BUCKET}/resumed"
    first = make_job(spec_of(uri=uri, keep=2, keepBest=True), "first", bucket.env)
    first.run()
    folder = "resumed/job-u1"
    report = first.reports[-1]
    assert [saved.step for saved in report.checkpoints] == steps_in(bucket.names(f"{folder}/checkpoints/"))
    assert [saved.step for saved in report.checkpoints][-2:] == [50, 60]
    assert sum(saved.best for saved in report.checkpoints) == 1
    assert report.checkpoints[-1].path == f"{uri}/job-u1/checkpoints/step-00000060"
    assert report.results.weights == f"{uri}/job-u1/results/weights.safetensors"
    assert bucket.read(f"{folder}/results/weights.safetensors") == straight.weights

    # The newest is damaged, and the one before it lost its manifest: both are passed over with a word.
    weights = f"{folder}/checkpoints/step-00000060/model.safetensors"
    content = bytearray(bucket.read(weights))
    content[-5] ^= 4
    bucket.write(weights, bytes(content))
    bucket.write(f"{folder}/checkpoints/step-00000055/model.safetensors", b"of a save that was killed")
    again = make_job(spec_of(uri=uri, keep=2, keepBest=True), "again", bucket.env)
    again.run()
    assert again.reports[-1].resumed_from_step == 50
    assert "step-00000060 skipped: model.safetensors does not match its checksum" in again.reports[-1].message
    assert "step-00000055 skipped: it has no manifest.json" in again.reports[-1].message
    assert bucket.names(f"{folder}/checkpoints/step-00000055") == []
    assert bucket.read(f"{folder}/results/weights.safetensors") == straight.weights


def test_damaged_checkpoints_in_a_bucket_do_not_take_the_places_of_new_ones(bucket, monkeypatch):
    for name, value in bucket.env.items():
        monkeypatch.setenv(name, value)
    folder = CheckpointFolder(open_storage(f"s3://{BUCKET}/damaged"), keep=1)

    def save(step):
        return folder.write(Staging().copy({"model.weight": torch.ones(3)}), {"step": step, "best": None})

    save(100)
    bucket.write("damaged/checkpoints/step-00000100/model.safetensors", b"a bad disk")
    for step in (10, 20):
        assert [saved.step for saved in save(step)] == steps_in(bucket.names("damaged/")) == [step]
    assert len(bucket.names("damaged/")) == 3, "nothing of the others is left"


@pytest.mark.parametrize(
    ("uri", "env", "said"),
    [
        ("s3://nowhere-at-all", {}, "spec.checkpoint: cannot write to s3://nowhere-at-all/job-u1"),
        (f"s3://{BUCKET}", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_a_user_error_before_training(make_job, bucket, uri, env, said):
    # Without credentials of its own, the client would ask the machine for some.
    job = make_job(spec_of(uri=uri), "job", bucket.env | {"AWS_EC2_METADATA_DISABLED": "true"} | env)
    worker = job.start()
    assert worker.wait() == ExitCode.USER_ERROR, worker.log
    assert said in worker.termination.message
    assert job.step == 0


def freeze_in_the_middle(worker, unfinished):
    """Stop the ranks while a save is unfinished."""
    while True:
        wait_for(unfinished, "a save")
        ranks = worker.ranks
        for rank in ranks:
            os.kill(rank, signal.SIGSTOP)
        if unfinished():
            return ranks
        for rank in ranks:
            os.kill(rank, signal.SIGCONT)


@pytest.mark.parametrize(
    ("place", "parallelism"), [("volume", "ddp"), ("volume", "fsdp"), ("bucket", "ddp"), ("bucket", "fsdp")]
)
def test_killed_in_the_middle_of_a_save_it_ends_with_the_same_bits(make_job, bucket, tmp_path, place, parallelism):
    processes = 2 if parallelism == "fsdp" else 1
    spec = spec_of(120, 512, processes, parallelism)
    straight = make_job(spec, "straight")
    straight.run()
    prefix = f"killed-{parallelism}/job-u1/checkpoints/"
    if place == "bucket":
        spec["checkpoint"]["uri"] = f"s3://{BUCKET}/killed-{parallelism}"
    job = make_job(spec, "killed", bucket.env)
    folder = tmp_path / "killed" / "checkpoints" / "job-u1" / "checkpoints"

    def unfinished():
        if place == "volume":
            return folder.is_dir() and any(".writing-step" in path.name for path in folder.iterdir())
        names = bucket.names(prefix)
        begun = {name.removeprefix(prefix).split("/")[0] for name in names if "step-" in name}
        return any(f"{prefix}{step}/{MANIFEST}" not in names for step in begun)

    worker = job.start()
    wait_for(lambda: job.reports and job.reports[-1].checkpoints, "the first checkpoint")
    os.kill(freeze_in_the_middle(worker, unfinished)[-1], signal.SIGKILL)
    for rank in worker.ranks:
        os.kill(rank, signal.SIGCONT)
    assert worker.wait() == 0, worker.log
    assert job.reports[-1].resumed_from_step
    if place == "volume":
        assert job.weights == straight.weights
        assert [path.name for path in folder.iterdir() if ".writing" in path.name] == []
    else:
        assert bucket.read(f"killed-{parallelism}/job-u1/results/weights.safetensors") == straight.weights
        assert steps_in(bucket.names(prefix)) == [100, 110, 120]
