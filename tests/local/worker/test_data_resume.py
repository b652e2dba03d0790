"""A run over data that is read as it goes, killed and started again, ends bit for bit like one that was not."""

import random
import signal

import pytest
from corpora import prose, write_imagenet, write_imdb

pytestmark = pytest.mark.local

TRAINING = {"globalBatchSize": 8, "deterministic": True, "seed": 3}


def images(folder):
    write_imagenet(folder / "images", classes=2, samples=36, side=24)
    return {
        "model": {"name": "cnn", "args": {"channels": [4], "hidden": [16]}},
        "dataset": {
            "imageFolder": {"path": "images", "size": 16},
            "augmentation": {
                "resizedCrop": {"scale": [0.3, 1.0]},
                "horizontalFlip": 0.5,
                "colorJitter": {"brightness": 0.4, "saturation": 0.4},
            },
            "split": {"test": 0.1},
        },
        "training": {**TRAINING, "epochs": 30},
        "prediction": {"split": "test"},
    }


def reviews(folder):
    write_imdb(folder / "imdb", 120)
    return {
        "model": {"name": "lstm", "args": {"embedding": 8, "hidden": 16}},
        "dataset": {
            "labeledText": {"path": "imdb"},
            "tokenizer": {"name": "bpe", "vocabularySize": 300, "maxLength": 48},
        },
        "training": {**TRAINING, "epochs": 20},
        "prediction": {"split": "test"},
    }


def novel(folder):
    (folder / "novel.txt").write_text(prose(300))
    return {
        "model": {"name": "gpt", "args": {"layers": 1, "heads": 2, "dimension": 16, "context": 32}},
        "dataset": {"text": {"path": "novel.txt"}, "tokenizer": {"name": "character", "maxLength": 32}},
        "task": "language-modeling",
        "training": {**TRAINING, "epochs": 8},
    }


@pytest.mark.parametrize(("make_spec", "processes"), [(images, 2), (reviews, 2), (novel, 1)])
def test_killed_at_a_random_step_it_ends_with_the_same_bits(make_job, make_spec, processes, tmp_path):
    (tmp_path / "data").mkdir()
    spec = make_spec(tmp_path / "data") | {
        "workers": {"processesPerWorker": processes},
        "checkpoint": {"everySteps": 11},
        "evaluation": {"everySteps": 40},
    }
    straight, killed = (make_job(spec, name, dataRoot=str(tmp_path / "data")) for name in ("straight", "killed"))
    straight.run()
    worker = killed.start()
    killed.wait_for_step(killed.step + random.randint(20, 80))
    worker.kill(signal.SIGKILL)
    worker.wait()
    worker = killed.start(attempt=2)
    assert worker.wait() == 0, worker.log
    assert killed.reports[-1].resumed_from_step
    assert killed.weights == straight.weights
    assert killed.summary["history"] == straight.summary["history"]
    assert killed.summary["test"] == straight.summary["test"]
    assert killed.summary["data"] == straight.summary["data"]
    if "prediction" in spec:
        first, second = ((job.results / "predictions.csv").read_bytes() for job in (straight, killed))
        assert first == second
