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


def examples(*names, argument="example"):
    """Run a test once for each of these examples. tests/unit/api/test_examples.py compares them with the folder."""
    return pytest.mark.parametrize(argument, names)


def merged(value, change):
    """Return `value` with `change` laid over it; None removes a field."""
    if not (isinstance(value, dict) and isinstance(change, dict)):
        return copy.deepcopy(change)
    result = {**value, **{key: merged(value.get(key), part) for key, part in change.items()}}
    return {key: part for key, part in result.items() if part is not None}


def train(make_job, example, *changes, env=None, **volumes):
    """Run an example with its sizes changed and folders in place of its volumes; return the job."""
    (manifest,) = load((FOLDER / f"{example}.yaml").read_text())
    spec = manifest["spec"]
    for change in changes:
        spec = merged(spec, change)
    mounts = {volume["mountPath"]: volumes[volume["name"]] for volume in spec.get("workers", {}).get("volumes", ())}

    def place(path):
        mount = max((m for m in mounts if path.startswith(m)), key=len, default=None)
        return path if mount is None else str(mounts[mount]) + path.removeprefix(mount)

    typed = map_paths(read_spec(spec), place)
    job = make_job(typed.to_wire(), example, env, dataRoot=str(mounts.get("/data", "")))
    job.run()
    return job


def test_metrics(job):
    return job.summary["test"]["metrics"]


test_metrics.__test__ = False


@examples("text-rnn", "text-lstm", "text-gru")
def test_text_classifiers(make_job, tmp_path, example):
    corpora.write_imdb(tmp_path / "imdb")
    small = {"training": {"epochs": 6, "globalBatchSize": 16}, "optimizer": {"learningRate": 0.01}}
    job = train(make_job, example, small, imdb=tmp_path / "imdb")
    assert test_metrics(job)["accuracy"] > 0.9
    assert job.summary["data"]["classes"] == ["neg", "pos"]


@examples("transformer-classifier")
def test_transformer_classifier(make_job, tmp_path, example):
    corpora.write_imdb(tmp_path / "imdb")
    small = {
        "model": {"args": {"dimension": 32, "heads": 2}},
        "training": {"epochs": 6, "globalBatchSize": 16},
        "optimizer": {"learningRate": 0.005},
        "schedule": {"warmupSteps": 5},
    }
    job = train(make_job, example, small, imdb=tmp_path / "imdb")
    assert test_metrics(job)["accuracy"] > 0.9
    assert test_metrics(job)["f1"] > 0.9


@examples("transformer-language-model")
def test_transformer_language_model(make_job, tmp_path, example):
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
    job = train(make_job, example, small, text=tmp_path / "text")
    assert test_metrics(job)["perplexity"] < 6, "three subjects, three verbs and two objects leave little to guess"
    (written,) = [json.loads(line) for line in (job.results / "generated.jsonl").read_text().splitlines()]
    assert written["prompt"] == "The cat"
    assert any(verb in written["text"] for verb in ("sees", "likes", "follows"))


@examples("resnet18-imagenet")
def test_resnet(make_job, tmp_path, example):
    corpora.write_imagenet(tmp_path / "imagenet", classes=6, samples=10)
    small = {
        "dataset": {"imageFolder": {"size": 32, "resize": None}},
        "optimizer": {"learningRate": 0.01},
        "training": {"epochs": 8, "globalBatchSize": 8, "microBatchSize": 4},
        "schedule": {"warmupSteps": 1},
        "evaluation": {"metrics": ["accuracy", "top5-accuracy"]},
        "checkpoint": {"persistentVolumeClaim": None},
    }
    job = train(make_job, example, small, TWO_PROCESSES, imagenet=tmp_path / "imagenet")
    assert job.summary["processes"] == 2
    assert len(job.summary["data"]["classes"]) == 6
    assert job.summary["history"][-1]["loss"] < 1.65, "guessing among six classes costs 1.79"


@examples("bert-finetuning")
def test_bert_finetuning(make_job, tmp_path, example):
    corpora.write_reviews(tmp_path / "reviews" / "reviews.jsonl")
    corpora.write_bert(tmp_path / "bert", corpora.FILLER + corpora.GOOD + corpora.BAD)
    small = {"optimizer": {"learningRate": 0.003}, "training": {"globalBatchSize": 16}, "schedule": {"warmupSteps": 5}}
    job = train(make_job, example, small, bert=tmp_path / "bert", reviews=tmp_path / "reviews")
    assert test_metrics(job)["accuracy"] > 0.9


@examples("gpt2-from-scratch")
def test_gpt2_from_scratch(make_job, tmp_path, example):
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
    job = train(make_job, example, small, TWO_PROCESSES, **folders)
    assert test_metrics(job)["perplexity"] < 12
    assert len((job.results / "generated.jsonl").read_text().splitlines()) == 1


@examples("gpt2-finetuning")
def test_gpt2_finetuning_from_pretrained_weights(make_job, tmp_path, example):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "stories.txt").write_text(corpora.prose(300))
    corpora.write_gpt2(tmp_path / "gpt2", corpora.prose())
    small = {
        "model": {"args": {"size": None}},
        "dataset": {"tokenizer": {"maxLength": 32}, "split": {"validation": 0.1, "test": 0.1}},
        "training": {"epochs": 2, "globalBatchSize": 8, "precision": "fp32"},
        "schedule": {"warmupSteps": 1},
    }
    job = train(make_job, example, small, gpt2=tmp_path / "gpt2", text=tmp_path / "text")
    (written,) = [json.loads(line) for line in (job.results / "generated.jsonl").read_text().splitlines()]
    assert written["prompt"] == "Once upon a time"


@examples("gpt3-1-3b", "gpt3-175b")
def test_gpt3_sharded_over_two_ranks(make_job, tmp_path, example):
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
    job = train(make_job, example, small, TWO_PROCESSES, **folders)
    assert job.summary["step"] == 10
    assert job.summary["processes"] == 2


@examples("digits-cnn", argument="teacher")
@examples("distillation")
def test_distillation_compresses_and_explains(make_job, teacher, example):
    results = train(make_job, teacher, {"training": {"epochs": 6}}, ONE_PROCESS).results
    # The volume of the example is the teacher's claim, on which the folder of a job bears its UID.
    taught = {"distillation": {"weights": f"/teacher/{results.parent.name}/results"}}
    job = train(make_job, example, {"training": {"epochs": 15}}, taught, teacher=results.parents[1])
    assert test_metrics(job)["accuracy"] > 0.9
    exports = {export["format"]: export for export in job.summary["exports"]}
    assert exports["int8"]["bytes"] < exports["onnx"]["bytes"]
    assert exports["int8"]["metrics"]["accuracy"] == pytest.approx(test_metrics(job)["accuracy"], abs=0.05)
    assert len(list((job.results / "explanations").glob("*.png"))) >= 4


@examples("transcription-ctc")
def test_transcription(make_job, tmp_path, example):
    corpora.write_recordings(tmp_path / "recordings" / "recordings.jsonl")
    small = {
        "model": {"args": {"hidden": 32, "layers": 1}},
        "optimizer": {"learningRate": 0.02},
        "schedule": {"warmupSteps": 5},
        "training": {"epochs": 25, "globalBatchSize": 16},
    }
    job = train(make_job, example, small, recordings=tmp_path / "recordings")
    assert test_metrics(job)["character-error-rate"] < 0.1


IMAGES = {
    "cnn-digits": ("mnist", corpora.write_idx, ONE_PROCESS),
    "cnn-two-convolutions": ("mnist", corpora.write_idx, ONE_PROCESS),
    "lenet-cifar10": ("cifar10", corpora.write_cifar10, ONE_PROCESS),
    "gpu-bf16": (
        "cifar10",
        corpora.write_cifar10,
        {**TWO_PROCESSES, "training": {"globalBatchSize": 64}, "checkpoint": {"persistentVolumeClaim": None}},
    ),
}


@examples(*IMAGES)
def test_images(make_job, tmp_path, example):
    volume, write, small = IMAGES[example]
    write(tmp_path / volume)
    job = train(make_job, example, {"training": {"epochs": 3}}, small, **{volume: tmp_path / volume})
    assert len(job.summary["history"]) == 3
    assert job.summary["history"][-1]["loss"] < job.summary["history"][0]["loss"]


@examples("linear-regression", "first-classifier", "mlp")
def test_made_up_data(make_job, example):
    fewer = {"training": {"epochs": 300}} if example == "linear-regression" else {}
    metrics = test_metrics(train(make_job, example, fewer))
    assert metrics["r2"] > 0.95 if example == "linear-regression" else metrics["accuracy"] > 0.9


@examples("own-network")
def test_a_network_of_ones_own(make_job, example):
    code = {"code": {"configMap": None, "path": str(FOLDER / "own-network")}}
    metrics = test_metrics(train(make_job, example, code, TWO_PROCESSES, {"export": {"formats": ["onnx"]}}))
    assert metrics["accuracy"] > 0.9


@examples("tabular-s3")
def test_a_table_in_s3(make_job, tmp_path, example):
    with corpora.object_store("datasets", "checkpoints") as store:
        corpora.write_churn(tmp_path / "churn.parquet")
        store.files.put(str(tmp_path / "churn.parquet"), "datasets/churn.parquet")
        small = {"training": {"epochs": 10, "globalBatchSize": 32}, "optimizer": {"learningRate": 0.01}}
        job = train(make_job, example, small, env=store.env)
        folder = f"checkpoints/churn/{job.config.name}-{job.config.uid}"
        saved = json.loads(store.files.cat(f"{folder}/results/results.json"))
        assert saved["test"]["metrics"]["auroc"] > 0.9
        assert store.files.glob(f"{folder}/checkpoints/step-*/manifest.json")
        assert job.reports[-1].checkpoints[-1].path.startswith("s3://checkpoints/churn/")
