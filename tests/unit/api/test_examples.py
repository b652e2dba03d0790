"""The examples: valid, each explained, one per lesson."""

from pathlib import Path

import pytest

from trainwright.api.job import read_manifest
from trainwright.manifests import load

FOLDER = Path(__file__).parents[3] / "manifests" / "examples"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))
LESSONS = {
    "linear-regression",
    "first-classifier",
    "mlp",
    "cnn-digits",
    "cnn-two-convolutions",
    "lenet-cifar10",
    "digits-cnn",
    "gpu-bf16",
}


def test_every_lesson_has_one():
    assert {path.stem for path in EXAMPLES} >= LESSONS


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_valid_and_named_like_its_file(path):
    (job,) = load(path.read_text())
    read_manifest(job)
    assert job["metadata"] == {"name": path.stem}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_says_what_it_is_and_how_to_run_it(path):
    head = path.read_text().split("apiVersion:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"trainwright run manifests/examples/{path.name}" in head
