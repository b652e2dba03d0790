# ruff: noqa: T201 - a bench prints its table
"""Time from process start to the end of the first step, on a warm machine: the worker beside a bare script.

Both train the small CNN of the lessons on the same MNIST-shaped files, in processes of their own that take turns. The
worker is started as a pod starts it; only the first step is made to print the time.

    python tests/bench/startup.py [--rounds 7]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from workloads import make_config, write_data

WORKER = """
import importlib.util, runpy, sys, time
class Hook:
    # Has the first step print the time, without importing anything before the worker does.
    def find_spec(self, name, path=None, target=None):
        if name != "trainwright_worker.training.update":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            take = module.Update.take
            def first(update, *args, **kwargs):
                norm = take(update, *args, **kwargs)
                print("first step", time.monotonic(), flush=True)
                module.Update.take = take
                return norm
            module.Update.take = first
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Hook())
runpy.run_module("trainwright_worker", run_name="__main__")
"""
BARE = """
import sys, time
import numpy as np
import torch
from torch import nn
folder = sys.argv[1]
read = lambda name, header: torch.from_numpy(np.fromfile(f"{folder}/{name}", np.uint8)[header:].copy())
images = read("images", 16).reshape(-1, 1, 28, 28).float() / 255
labels = read("labels", 8).long()
images = (images - images.mean()) / images.std()
model = nn.Sequential(
    nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10),
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
for indices in torch.split(torch.randperm(len(images)), 64):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images[indices]), labels[indices]).backward()
    optimizer.step()
    print("first step", time.monotonic(), flush=True)
    break
"""


def measure(program: str, folder: Path) -> float:
    """Return the seconds from the start of a program to the end of its first step."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TRAINWRIGHT_CONFIG": str(folder / "worker.json"),
        "TRAINWRIGHT_RENDEZVOUS_HOST": "127.0.0.1",
        "TRAINWRIGHT_TERMINATION_LOG": str(folder / "termination"),
    }
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("first step"):
            process.terminate()
            process.communicate()
            return float(line.split()[-1]) - begun
    raise RuntimeError("the program has ended without a step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        times = []
        for number in range(rounds + 1):
            # Every start is a first one: a checkpoint of the round before would be resumed.
            config = make_config(folder, "cnn").model_copy(update={"uid": f"u{number}"})
            (folder / "worker.json").write_text(json.dumps(config.to_wire()))
            times.append({"worker": measure(WORKER, folder), "bare": measure(BARE, folder)})
    times = times[1:]  # The first round warms the page cache.
    for way in ("worker", "bare"):
        print(f"{way:8}{statistics.median(each[way] for each in times):8.2f} s to the first step")
    print(f"ratio   {statistics.median(each['worker'] / each['bare'] for each in times):8.2f}")


if __name__ == "__main__":
    main()
