"""Data that is larger than the memory it may take."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import write_jsonl

pytestmark = pytest.mark.local

READING = Path(__file__).with_name("reading.py")
MEBIBYTE = 2**20


def spec_of(dataset, task="classification"):
    return {
        "model": {"name": "linear"},
        "dataset": {"split": {"validation": 0, "test": 0}, **dataset},
        "task": task,
        "training": {"epochs": 1, "globalBatchSize": 1},
    }


def growth(small, large):
    program = subprocess.run(
        [sys.executable, READING, json.dumps([small, large])], capture_output=True, text=True, check=False
    )
    assert program.returncode == 0, program.stderr
    return json.loads(program.stdout.splitlines()[-1])


def test_a_long_text_is_never_held(tmp_path):
    words = [f"w{number:05}" for number in range(5000)]
    draw = np.random.default_rng(0)
    for name, lines in (("small", 2_000), ("large", 400_000)):
        with (tmp_path / f"{name}.txt").open("w") as file:
            for start in range(0, lines, 1000):
                picked = draw.integers(0, len(words), (min(1000, lines - start), 24))
                file.writelines(" ".join(words[word] for word in row) + "\n" for row in picked)
    size = (tmp_path / "large.txt").stat().st_size / MEBIBYTE

    def spec(name):
        tokenizer = {"name": "word", "maxLength": 256, "vocabularySize": 6000}
        return spec_of({"text": {"path": str(tmp_path / f"{name}.txt")}, "tokenizer": tokenizer}, "language-modeling")

    found = growth(spec("small"), spec("large"))
    assert found["samples"] > 37_000
    assert size > 64
    assert found["growth"] < 32, f"{found['growth']:.0f} MiB for {size:.0f} MiB of text"


def test_shards_of_images_are_never_held(tmp_path):
    draw = np.random.default_rng(0)
    images = []
    for _ in range(8):  # Noise keeps a JPEG large.
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (200, 220, 3), dtype=np.uint8)).save(file, "JPEG", quality=95)
        images.append(file.getvalue())
    for shard in range(8):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for number in range(250):
                for name, content in (
                    (f"{number}.jpg", images[number % 8]),
                    (f"{number}.cls", b"01"[number % 2 :][:1]),
                ):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    size = sum(file.stat().st_size for file in tmp_path.glob("*.tar")) / MEBIBYTE

    def spec(shards):
        source = {"path": f"{tmp_path}/{{0..{shards}}}.tar", "size": 32}
        return spec_of({"webdataset": source, "normalize": "unit"})

    found = growth(spec(1), spec(7))
    assert found["samples"] == 2000
    assert size > 100
    assert found["growth"] < 24, f"{found['growth']:.0f} MiB for {size:.0f} MiB of images"


def test_labelled_texts_are_never_held(tmp_path):
    row = {"text": "a review that goes on for quite a while " * 40, "label": "x"}
    for name, rows in (("small", 500), ("large", 40_000)):
        write_jsonl(tmp_path / f"{name}.jsonl", ({**row, "label": "xy"[n % 2]} for n in range(rows)))

    def spec(name):
        tokenizer = {"name": "word", "maxLength": 64}
        return spec_of({"labeledText": {"path": str(tmp_path / f"{name}.jsonl")}, "tokenizer": tokenizer})

    size = (tmp_path / "large.jsonl").stat().st_size / MEBIBYTE
    found = growth(spec("small"), spec("large"))
    assert found["samples"] == 40_000
    # What the texts become, 64 tokens each, is kept: up to 25 MiB.
    assert size > 60
    assert found["growth"] < 36, f"{found['growth']:.0f} MiB for {size:.0f} MiB of texts"
