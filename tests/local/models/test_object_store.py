"""Pretrained folders in an object store, through its real API."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
import torch
import transformers
from corpora import object_store

from trainwright.api.job import read_spec
from trainwright.api.spec.task import TaskName
from trainwright_worker.errors import DataError
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build
from trainwright_worker.models.pretrained import load_pretrained

pytestmark = pytest.mark.local

FACTS = Facts((16,), 90, vocabulary=90)


@pytest.fixture
def bucket(monkeypatch, tmp_path) -> Iterator[s3fs.S3FileSystem]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with object_store("models") as store:
        for name, value in store.env.items():
            monkeypatch.setenv(name, value)
        yield store.files


def upload(store, folder, seed):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(vocab_size=90, n_embd=16, n_layer=2, n_head=2, n_positions=24)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder)
    (folder / "evil.py").write_text("raise SystemExit\n")
    store.put(f"{folder}/", "models/gpt2/", recursive=True)
    return model


def started(uri):
    raw = {
        "model": {"name": "gpt", "pretrained": uri},
        "dataset": {"builtin": {"name": "digits"}},
        "training": {"epochs": 1},
    }
    spec = read_spec(raw).model_copy(update={"task": TaskName.LANGUAGE_MODELING})
    model = build(spec, FACTS)
    load_pretrained(model, spec, FACTS, "")
    return model.eval()


def copies():
    return sorted(Path(tempfile.gettempdir()).glob("trainwright-*"))


def test_a_folder_is_fetched_once_and_again_when_it_changes(bucket, tmp_path):
    tokens = torch.randint(0, 90, (2, 16))
    for seed in (1, 2):
        theirs = upload(bucket, tmp_path / "local", seed)
        bucket.clear_instance_cache()  # as a new process, which remembers no listing
        first, again = started("s3://models/gpt2"), started("s3://models/gpt2")
        with torch.no_grad():
            torch.testing.assert_close(first(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)
            assert torch.equal(first(tokens), again(tokens))
        assert len(copies()) == seed
        assert not list(copies()[-1].glob("*.py")), "code is not even fetched"


def test_a_single_file_is_fetched(bucket, tmp_path):
    upload(bucket, tmp_path / "local", 1)
    raw = {"name": "gpt", "args": {"dimension": 16, "layers": 2, "heads": 2, "context": 24}}
    raw["pretrained"] = "s3://models/gpt2/model.safetensors"
    spec = read_spec({"model": raw, "dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}})
    spec = spec.model_copy(update={"task": TaskName.LANGUAGE_MODELING})
    notes = load_pretrained(build(spec, FACTS), spec, FACTS, "")
    assert notes == ["starting from s3://models/gpt2/model.safetensors: 28 tensors"]


def test_what_is_not_there_is_named(bucket):
    with pytest.raises(DataError, match=r"spec.model.pretrained: s3://models/nothing does not exist"):
        started("s3://models/nothing")
