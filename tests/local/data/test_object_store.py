"""Data in an object store: a real S3 API, served on this machine."""

import io
import json
import os
import socket
import subprocess
import sys
import tarfile

import datasets
import numpy as np
import pytest
import s3fs
import torch
from corpora import object_store
from moto import settings
from pyarrow import Table, parquet

from trainwright.api.exit_codes import ExitCode
from trainwright.api.worker import Termination
from trainwright_worker.data.blocks import BlockReader
from trainwright_worker.data.loader import Loader
from trainwright_worker.data.sampler import Sampler
from trainwright_worker.errors import DataError, InfrastructureError

from .conftest import job, load, picture, sentences, write_tar

pytestmark = pytest.mark.local

BUCKET = "training-data"
CPU = torch.device("cpu")


@pytest.fixture
def store(monkeypatch):
    """Serve an empty bucket, and let the environment lead to it."""
    with object_store(BUCKET) as served:
        for name, value in served.env.items():
            monkeypatch.setenv(name, value)
        yield served


def put(store, key, body):
    store.files.pipe_file(f"{BUCKET}/{key}", body)
    return f"s3://{BUCKET}/{key}"


def test_tables_and_texts(store):
    path = put(store, "a/train.csv", b"x,y\n1,a\n2,b\n")
    test = put(store, "a/test.csv", b"x,y\n3,b\n")
    data = load(job({"csv": {"path": path, "target": "y", "testPath": test}, "normalize": "none"}))
    assert sorted(data.splits.train.inputs.flatten().tolist()) == [1, 2]
    assert data.splits.test.targets.tolist() == [1]
    file = io.BytesIO()
    parquet.write_table(Table.from_pydict({"x": [1.0, 2.0], "y": ["a", "b"]}), file)
    put(store, "p/0.parquet", file.getvalue())
    data = load(job({"parquet": {"path": f"s3://{BUCKET}/p", "target": "y"}}))
    assert len(data.splits.train) == 2
    for part in range(2):
        rows = [json.dumps({"text": text, "label": n % 2}) for n, text in enumerate(sentences(6))]
        put(store, f"t/{part}.jsonl", "\n".join(rows).encode())
    data = load(job({"labeledText": {"path": f"s3://{BUCKET}/t/*.jsonl"}}))
    assert len(data.splits.train) == 12
    modeling = {"text": {"path": f"s3://{BUCKET}/t"}, "tokenizer": {"name": "byte", "maxLength": 8}}
    assert len(load(job(modeling, "language-modeling")).splits.train) > 20


def test_an_image_folder(store):
    for label in ("cat", "dog"):
        for number in range(3):
            put(store, f"images/{label}/{number}.png", picture(100 if label == "dog" else 0))
    data = load(job({"imageFolder": {"path": f"s3://{BUCKET}/images", "size": 8}, "normalize": "none"}))
    sampler = Sampler(6, 2, 0, 1, 0)
    batches = [batch for batch, _ in zip(Loader(data.splits.train, sampler, CPU).batches(0), range(3), strict=False)]
    for batch in batches:
        assert torch.equal(batch.input[:, 0].mean((1, 2)) > 50, batch.target == 1)


def test_shards_are_read_by_blocks_once_per_epoch(store, monkeypatch):
    noise = np.random.default_rng(0)
    for shard in range(4):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for number in range(20):
                members = ((f"{number:03}.png", picture(number)), (f"{number:03}.cls", b"ab"[number % 2 :][:1]))
                for name, content in (*members, (f"{number:03}.json", noise.bytes(2000))):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        put(store, f"s/{shard}.tar", file.getvalue())
    fetched = []
    whole = BlockReader._block

    def counted(self, location, number, size):
        if (location.name, number) not in self._blocks:
            fetched.append((location.name, number))
        return whole(self, location, number, size)

    monkeypatch.setattr(BlockReader, "_block", counted)
    source = {"path": f"s3://{BUCKET}/s/{{0..3}}.tar", "size": 8}
    data = load(job({"webdataset": source, "normalize": "none"}))
    assert data.classes == ("a", "b")
    assert data.blocks.unique().tolist() == [0, 1, 2, 3]
    sampler = Sampler(80, 16, 0, 1, 0, data.blocks)
    seen = [batch for batch, _ in zip(Loader(data.splits.train, sampler, CPU).batches(0), range(5), strict=False)]
    colours = torch.cat([batch.input[:, 0, 0, 0] for batch in seen])
    assert sorted(colours.tolist()) == sorted(float(n) for n in range(20) for _ in range(4))
    assert sorted(set(fetched)) == sorted(fetched), "no block twice"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (f"s3://{BUCKET}/none.csv", f"spec.dataset.csv.path: s3://{BUCKET}/none.csv does not exist"),
        ("s3://no-such-bucket/a.csv", "spec.dataset.csv.path: s3://no-such-bucket/a.csv does not exist"),
    ],
)
def test_a_missing_bucket_or_key_is_named(store, path, words):
    with pytest.raises(DataError, match=words) as caught:
        load(job({"csv": {"path": path, "target": "y"}}))
    assert "AWS_ENDPOINT_URL" in caught.value.hint


def test_a_store_that_asks_for_credentials(store, monkeypatch):
    path = put(store, "a.csv", b"x,y\n1,a\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match=r"cannot read s3://.*: Unable to locate credentials") as caught:
        load(job({"csv": {"path": path, "target": "y"}}))
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_a_store_that_forbids(store, monkeypatch):
    path = put(store, "a.csv", b"x,y\n1,a\n")
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # From now on the store asks who calls.
    with pytest.raises(DataError, match=rf"spec.dataset.csv.path: access to {path} is denied"):
        load(job({"csv": {"path": path, "target": "y"}}))


def test_a_saved_dataset(store):
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"text": sentences(6), "label": [0, 1] * 3})
    rows.save_to_disk(f"s3://{BUCKET}/saved")
    data = load(job({"huggingface": {"path": f"s3://{BUCKET}/saved", "text": "text"}}))
    assert len(data.splits.train) == 6


def run_worker(folder, spec):
    """Run a worker of two processes as a pod would; return its exit code and how it ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "namespace": "default",
        "name": "job",
        "uid": "u1",
        "spec": spec.to_wire(),
        "rendezvousPort": port,
        "checkpointRoot": str(folder),
        "dataRoot": "/nowhere",
    }
    (folder / "worker.json").write_text(json.dumps(config))
    paths = {"TRAINWRIGHT_CONFIG": str(folder / "worker.json"), "TRAINWRIGHT_TERMINATION_LOG": str(folder / "ending")}
    program = subprocess.run(
        [sys.executable, "-m", "trainwright_worker"],
        env={**os.environ, **paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return program, Termination.model_validate_json((folder / "ending").read_text())


def test_a_worker_of_two_processes_trains_from_shards_in_the_store(store, tmp_path):
    for shard in range(2):
        members = []
        for number in range(24):
            members += [(f"{number}.png", picture(200 * (number % 2))), (f"{number}.cls", b"01"[number % 2 :][:1])]
        write_tar(tmp_path / "shard.tar", members)
        put(store, f"two/{shard}.tar", (tmp_path / "shard.tar").read_bytes())
    spec = {
        "model": {"name": "mlp", "args": {"hidden": [8]}},
        "training": {"epochs": 12, "globalBatchSize": 8},
        "workers": {"processesPerWorker": 2},
    }
    source = {"path": f"s3://{BUCKET}/two/{{0..1}}.tar", "size": 8}
    dataset = {"webdataset": source, "augmentation": {"horizontalFlip": 0.5}, "split": {"test": 0.25}}
    program, ending = run_worker(tmp_path, job(dataset, **spec))
    assert program.returncode == 0, program.stdout + program.stderr
    assert ending.report.evaluation.metrics["accuracy"] == 1
    missing = {"webdataset": {**source, "path": f"s3://{BUCKET}/two/{{0..2}}.tar"}}
    program, ending = run_worker(tmp_path, job(missing, **spec))
    assert program.returncode == ExitCode.DATA
    assert ending.message == f"spec.dataset.webdataset.path: s3://{BUCKET}/two/2.tar does not exist"


def test_a_store_that_is_away_may_come_back(store):
    path = put(store, "a.csv", b"x,y\n1,a\n")
    store.stop()
    with pytest.raises(InfrastructureError, match=r"spec.dataset.csv.path: cannot reach s3://"):
        load(job({"csv": {"path": path, "target": "y"}}))
