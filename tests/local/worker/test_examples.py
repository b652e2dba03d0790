"""Every example of manifests/examples, trained as it is but for its size, on small data in the format that it asks for."""

import copy
import json
from pathlib import Path

import corpora
import pytest

from trainwright.api.job import read_spec
from trainwright.api.spec.paths import map_paths
from trainwright.manifests import load

pytestmark = pytest.mark.local

FOLDER = Path(__file__).parents[3] / "manifests" / "examples"
ONE_PROCESS = {"workers": {"count": 1, "processesPerWorker": 1, "resources": None}}
TWO_PROCESSES = {"workers": {"count": 1, "processesPerWorker": 2, "resources": None}}


def merged(value, change):
    """Return `value` with `change` laid over it; None removes a field."""
    if not (isinstance(value, dict) and isinstance(change, dict)):
        return copy.deepcopy(change)
    result = {**value, **{key: merged(value.get(key), part) for key, part in change.items()}}
    return {key: part for key, part in result.items() if part is not None}


def train(make_job, name, *changes, env=None, **volumes):
    """Run an example with its sizes changed and folders in place of its volumes; return the job."""
    (manifest,) = load((FOLDER / f"{name}.yaml").read_text())
    spec = manifest["spec"]
    for change in changes:
        spec = merged(spec, change)
    mounts = {volume["mountPath"]: volumes[volume["name"]] for volume in spec.get("workers", {}).get("volumes", ())}

    def place(path):
        mount = max((m for m in mounts if path.startswith(m)), key=len, default=None)
        return path if mount is None else str(mounts[mount]) + path.removeprefix(mount)

    typed = map_paths(read_spec(spec), place)
    job = make_job(typed.to_wire(), name, env, dataRoot=str(mounts.get("/data", "")))
    job.run()
    return job


def test_metrics(job):
    return job.summary["test"]["metrics"]


test_metrics.__test__ = False


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_text_classifiers(make_job, tmp_path, kind):
    corpora.write_imdb(tmp_path / "imdb")
    small = {"training": {"epochs": 6, "globalBatchSize": 16}, "optimizer": {"learningRate": 0.01}}
    job = train(make_job, f"text-{kind}", small, imdb=tmp_path / "imdb")
    assert test_metrics(job)["accuracy"] > 0.9
    assert job.summary["data"]["classes"] == ["neg", "pos"]


def test_transformer_classifier(make_job, tmp_path):
    corpora.write_imdb(tmp_path / "imdb")
    small = {
        "model": {"args": {"dimension": 32, "heads": 2}},
        "training": {"epochs": 6, "globalBatchSize": 16},
        "optimizer": {"learningRate": 0.005},
        "schedule": {"warmupSteps": 5},
    }
    job = train(make_job, "transformer-classifier", small, imdb=tmp_path / "imdb")
    assert test_metrics(job)["accuracy"] > 0.9
    assert test_metrics(job)["f1"] > 0.9


def test_transformer_language_model(make_job, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "stories.txt").write_text(corpora.prose(800))
    small = {
        "model": {"args": {"dimension": 32, "heads": 2, "layers": 2, "dropout": 0}},
        "dataset": {"tokenizer": {"vocabularySize": 300, "maxLength": 32}},
        "optimizer": {"learningRate": 0.01},
        "schedule": {"warmupSteps": 5},
        "training": {"epochs": 6, "globalBatchSize": 8},
        "generation": {"prompts": ["The cat"], "maxTokens": 8},
    }
    job = train(make_job, "transformer-language-model", small, text=tmp_path / "text")
    assert test_metrics(job)["perplexity"] < 6, "three subjects, three verbs and two objects leave little to guess"
    (written,) = [json.loads(line) for line in (job.results / "generated.jsonl").read_text().splitlines()]
    assert written["prompt"] == "The cat"
    assert any(verb in written["text"] for verb in ("sees", "likes", "follows"))


def test_resnet(make_job, tmp_path):
    corpora.write_imagenet(tmp_path / "imagenet", classes=6, samples=10)
    small = {
        "dataset": {"imageFolder": {"size": 32, "resize": None}},
        "optimizer": {"learningRate": 0.01},
        "training": {"epochs": 4, "globalBatchSize": 8, "microBatchSize": 4},
        "schedule": {"warmupSteps": 1},
        "evaluation": {"metrics": ["accuracy", "top5-accuracy"]},
        "checkpoint": {"persistentVolumeClaim": None},
    }
    job = train(make_job, "resnet18-imagenet", small, TWO_PROCESSES, imagenet=tmp_path / "imagenet")
    assert job.summary["processes"] == 2
    assert len(job.summary["data"]["classes"]) == 6
    assert job.reports[-1].loss < 1.6


def test_bert_finetuning(make_job, tmp_path):
    corpora.write_reviews(tmp_path / "reviews" / "reviews.jsonl")
    corpora.write_bert(tmp_path / "bert", corpora.FILLER + corpora.GOOD + corpora.BAD)
    small = {"optimizer": {"learningRate": 0.003}, "training": {"globalBatchSize": 16}, "schedule": {"warmupSteps": 5}}
    job = train(make_job, "bert-finetuning", small, bert=tmp_path / "bert", reviews=tmp_path / "reviews")
    assert test_metrics(job)["accuracy"] > 0.9


def test_gpt2_from_scratch(make_job, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "stories.txt").write_text(corpora.prose(800))
    corpora.write_tokenizer(tmp_path / "tokenizer", corpora.prose())
    small = {
        "model": {"args": {"size": None, "layers": 2, "heads": 2, "dimension": 32}},
        "dataset": {"tokenizer": {"maxLength": 32}, "split": {"validation": 0.1, "test": 0.1}},
        "optimizer": {"learningRate": 0.01},
        "training": {"steps": 60, "globalBatchSize": 8, "microBatchSize": 2, "compile": False},
        "evaluation": {"everySteps": 30},
        "schedule": {"warmupSteps": 5},
        "checkpoint": {"persistentVolumeClaim": None},
    }
    folders = {"text": tmp_path / "text", "gpt2-tokenizer": tmp_path / "tokenizer"}
    job = train(make_job, "gpt2-from-scratch", small, TWO_PROCESSES, **folders)
    assert test_metrics(job)["perplexity"] < 12
    assert len((job.results / "generated.jsonl").read_text().splitlines()) == 1


def test_gpt2_finetuning_from_pretrained_weights(make_job, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "stories.txt").write_text(corpora.prose(300))
    corpora.write_gpt2(tmp_path / "gpt2", corpora.prose())
    small = {
        "model": {"args": {"size": None}},
        "dataset": {"tokenizer": {"maxLength": 32}, "split": {"validation": 0.1, "test": 0.1}},
        "training": {"epochs": 2, "globalBatchSize": 8, "precision": "fp32"},
        "schedule": {"warmupSteps": 1},
    }
    job = train(make_job, "gpt2-finetuning", small, gpt2=tmp_path / "gpt2", text=tmp_path / "text")
    (written,) = [json.loads(line) for line in (job.results / "generated.jsonl").read_text().splitlines()]
    assert written["prompt"] == "Once upon a time"


def test_gpt3_sharded_over_two_ranks(make_job, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "stories.txt").write_text(corpora.prose(300))
    corpora.write_tokenizer(tmp_path / "tokenizer", corpora.prose())
    small = {
        "model": {"args": {"size": None, "layers": 2, "heads": 2, "dimension": 32}},
        "dataset": {"tokenizer": {"maxLength": 32}},
        "training": {"steps": 10, "globalBatchSize": 8},
        "schedule": {"warmupSteps": 2},
        "checkpoint": {"persistentVolumeClaim": None},
    }
    folders = {"text": tmp_path / "text", "gpt2-tokenizer": tmp_path / "tokenizer"}
    for name in ("gpt3-1-3b", "gpt3-175b"):
        job = train(make_job, name, small, TWO_PROCESSES, **folders)
        assert job.summary["step"] == 10
        assert job.summary["processes"] == 2


def test_distillation_compresses_and_explains(make_job, tmp_path):
    teacher = train(make_job, "digits-cnn", {"training": {"epochs": 6}}, ONE_PROCESS)
    # The volume of the example is the teacher's claim, on which the folder of a job bears its UID.
    taught = {"distillation": {"weights": f"/teacher/{teacher.results.parent.name}/results"}}
    job = train(make_job, "distillation", {"training": {"epochs": 15}}, taught, teacher=teacher.results.parents[1])
    assert test_metrics(job)["accuracy"] > 0.9
    exports = {export["format"]: export for export in job.summary["exports"]}
    assert exports["int8"]["bytes"] < exports["onnx"]["bytes"]
    assert exports["int8"]["metrics"]["accuracy"] == pytest.approx(test_metrics(job)["accuracy"], abs=0.05)
    assert len(list((job.results / "explanations").glob("*.png"))) >= 4


def test_transcription(make_job, tmp_path):
    corpora.write_recordings(tmp_path / "recordings" / "recordings.jsonl")
    small = {
        "model": {"args": {"hidden": 32, "layers": 1}},
        "optimizer": {"learningRate": 0.02},
        "schedule": {"warmupSteps": 5},
        "training": {"epochs": 25, "globalBatchSize": 16},
    }
    job = train(make_job, "transcription-ctc", small, recordings=tmp_path / "recordings")
    assert test_metrics(job)["character-error-rate"] < 0.1


@pytest.mark.parametrize(
    ("name", "volume", "write", "processes"),
    [
        ("cnn-digits", "mnist", corpora.write_idx, ONE_PROCESS),
        ("cnn-two-convolutions", "mnist", corpora.write_idx, ONE_PROCESS),
        ("lenet-cifar10", "cifar10", corpora.write_cifar10, ONE_PROCESS),
        ("gpu-bf16", "cifar10", corpora.write_cifar10, TWO_PROCESSES),
    ],
)
def test_images(make_job, tmp_path, name, volume, write, processes):
    write(tmp_path / volume)
    batch = {} if name != "gpu-bf16" else {"globalBatchSize": 64}
    claim = {"checkpoint": {"persistentVolumeClaim": None}} if name == "gpu-bf16" else {}
    small = {"training": {"epochs": 3, **batch}, **claim}
    job = train(make_job, name, small, processes, **{volume: tmp_path / volume})
    assert len(job.summary["history"]) == 3
    assert job.summary["history"][-1]["loss"] < job.summary["history"][0]["loss"]


@pytest.mark.parametrize("name", ["linear-regression", "first-classifier", "mlp"])
def test_made_up_data(make_job, name):
    metrics = test_metrics(train(make_job, name, {} if name != "linear-regression" else {"training": {"epochs": 300}}))
    assert metrics["r2"] > 0.95 if name == "linear-regression" else metrics["accuracy"] > 0.9


def test_a_table_in_s3(make_job, tmp_path):
    with corpora.object_store("datasets", "checkpoints") as store:
        corpora.write_churn(tmp_path / "churn.parquet")
        store.files.put(str(tmp_path / "churn.parquet"), "datasets/churn.parquet")
        small = {"training": {"epochs": 10, "globalBatchSize": 32}, "optimizer": {"learningRate": 0.01}}
        job = train(make_job, "tabular-s3", small, env=store.env)
        folder = f"checkpoints/churn/{job.config.name}-{job.config.uid}"
        saved = json.loads(store.files.cat(f"{folder}/results/results.json"))
        assert saved["test"]["metrics"]["auroc"] > 0.9
        assert store.files.glob(f"{folder}/checkpoints/step-*/manifest.json")
        assert job.reports[-1].checkpoints[-1].path.startswith("s3://checkpoints/churn/")
