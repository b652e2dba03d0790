# ruff: noqa: T201 - a bench prints its table
"""How reading photographs scales with the threads of the loader.

Reads a folder of JPEG files as training on ImageNet does (decoding, a random part of 224x224, mirroring, scaling) by one
thread and by more, in turn, and prints photographs per second. Only means something where that many cores are idle.

    python tests/bench/loading.py [--threads 2] [--photos 512] [--rounds 7]
"""

import argparse
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from workloads import use_threads

from trainwright.api.job import read_spec
from trainwright_worker.data.dataset import measure, process, read
from trainwright_worker.data.loader import Loader
from trainwright_worker.data.sampler import Sampler
from trainwright_worker.data.table import Split

BATCH = 32
SIDES = 500, 375
"""Pixels of a usual photograph of ImageNet."""


def write_photos(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / "photos" / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        # Blurred noise: as many bytes as a photograph, rather than as noise.
        small = Image.fromarray(random.integers(0, 256, (SIDES[1] // 4, SIDES[0] // 4, 3), dtype=np.uint8))
        small.resize(SIDES, Image.Resampling.BICUBIC).save(place / f"{number}.jpg", quality=90)


def open_photos(folder: Path) -> Split:
    spec = read_spec(
        {
            "model": {"name": "torchvision:resnet18"},
            "dataset": {
                "imageFolder": {"path": "photos", "size": 224},
                "augmentation": {"resizedCrop": {}, "horizontalFlip": 0.5},
                "split": {"validation": 0, "test": 0},
            },
            "training": {"epochs": 1, "globalBatchSize": BATCH},
        }
    )
    splits, classes = read(spec, str(folder))
    return process(spec, splits, measure(spec, splits, classes, str(folder))).splits.train


def rate(split: Split, threads: int) -> float:
    """Return the photographs per second of one epoch."""
    use_threads(threads)
    sampler = Sampler(len(split), BATCH, 0, 1, 0)
    batches = Loader(split, sampler, torch.device("cpu")).batches(0)
    begun = time.perf_counter()
    for _ in islice(batches, sampler.steps_per_epoch):
        pass
    seconds = time.perf_counter() - begun
    batches.close()
    return len(split) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--photos", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_photos(Path(name), options.photos)
        split = open_photos(Path(name))
        rate(split, options.threads)
        rounds = [{threads: rate(split, threads) for threads in (1, options.threads)} for _ in range(options.rounds)]
    for threads in (1, options.threads):
        print(f"{threads} thread(s): {statistics.median(each[threads] for each in rounds):8.1f} photographs per second")
    print(f"ratio: {statistics.median(each[options.threads] / each[1] for each in rounds):.2f}")


if __name__ == "__main__":
    main()
