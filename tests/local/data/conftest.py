"""Small data in every format, and a way to read it as a job would."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from trainwright.api.job import read_spec
from trainwright_worker.data.dataset import Dataset, measure, process, read

WORDS = ("good", "warm", "dull", "cold", "film", "plot")


def picture(colour=0, size=(24, 20), form="PNG"):
    """Return an encoded image whose red is `colour`."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., 0] = colour
    pixels[..., 1] = np.arange(size[0])
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def sentences(count):
    return [f"{WORDS[n % 6]} {WORDS[n % 5]} number {n}" for n in range(count)]


def job(dataset, task="classification", **changes):
    return read_spec(
        {
            "model": {"name": "linear"},
            "dataset": {"split": {"validation": 0, "test": 0}, **dataset},
            "task": task,
            "training": {"epochs": 1, "globalBatchSize": 1},
            **changes,
        }
    )


def load(spec, root="") -> Dataset:
    splits, classes = read(spec, root)
    return process(spec, splits, measure(spec, splits, classes, root))


@pytest.fixture
def open_data(tmp_path):
    """Return a function that reads and processes the data of a spec."""
    return lambda dataset, task="classification", **changes: load(job(dataset, task, **changes), str(tmp_path))
