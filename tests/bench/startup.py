# ruff: noqa: T201 - a bench prints its table
"""What it costs to start, beside a bare script that trains the same, on a warm machine.

There are two comparisons, each of processes that take turns, with one thread per loop:

- A whole `trainwright run` of a job that is over as soon as it has begun (iris, 50 epochs), beside a script that imports torch
  and scikit-learn and trains the same model on the same data: CPU time of all processes, and wall time.
- Time from process start to the end of the first step of the small CNN of the lessons on MNIST-shaped files. The worker is
  started as a pod starts it; only the first step is made to print the time.

    python tests/bench/startup.py [--rounds 7]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from workloads import make_config, write_data

WARM = 1
"""Rounds that are left out: they warm the page cache."""
IRIS: dict[str, Any] = {
    "apiVersion": "trainwright.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "iris"},
    "spec": {
        "model": {"layers": [{"dense": {"units": 16, "activation": "relu"}}, {"dense": {"units": 3}}]},
        "dataset": {"builtin": {"name": "iris"}, "split": {"validation": 0.1, "test": 0.1}},
        "training": {"epochs": 50, "globalBatchSize": 16},
        "workers": {"env": [{"name": "OMP_NUM_THREADS", "value": "1"}]},
    },
}
BARE_IRIS = """
import torch
from sklearn.datasets import load_iris
from torch import nn
data = load_iris()
inputs, targets = torch.from_numpy(data.data).float(), torch.from_numpy(data.target)
train = torch.randperm(len(inputs))[30:]
inputs = (inputs - inputs[train].mean(0)) / inputs[train].std(0)
model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
for epoch in range(50):
    for indices in torch.split(train[torch.randperm(len(train))], 16):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[indices]), targets[indices]).backward()
        optimizer.step()
"""
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


@dataclass(frozen=True)
class Cost:
    """Seconds that a program takes, with all processes that it starts."""

    cpu: float
    wall: float


def cost(command: list[str], folder: Path) -> Cost:
    """Return what a whole program costs."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # As an installed package has it: what is imported has been compiled.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begun
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def first_step(program: str, folder: Path) -> float:
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


def compare_runs(rounds: int, folder: Path) -> None:
    """Print what a whole run costs beside the bare script."""
    (folder / "iris.yaml").write_text(json.dumps(IRIS))
    ours = [str(Path(sys.executable).with_name("trainwright")), "run", "iris.yaml"]
    bare = [sys.executable, "-c", BARE_IRIS]
    pairs = [(cost(ours, folder), cost(bare, folder)) for _ in range(WARM + rounds)][WARM:]
    print("iris, from start to end          CPU    wall")
    for number, way in enumerate(("trainwright run", "bare script")):
        costs = [pair[number] for pair in pairs]
        cpu, wall = statistics.median(each.cpu for each in costs), statistics.median(each.wall for each in costs)
        print(f"  {way:26}{cpu:6.2f} s{wall:6.2f} s")
    cpu, wall = ([getattr(run, name) / getattr(script, name) for run, script in pairs] for name in ("cpu", "wall"))
    print(f"  {'ratio, median of pairs':26}{statistics.median(cpu):6.2f}  {statistics.median(wall):6.2f}")
    print(f"  {'from lowest to highest':26}{min(cpu):.2f}-{max(cpu):.2f}  {min(wall):.2f}-{max(wall):.2f}")


def compare_first_steps(rounds: int, folder: Path) -> None:
    """Print how long the worker takes to its first step, beside the bare script."""
    write_data(folder)
    times = []
    for number in range(WARM + rounds):
        # Every start is a first one: a checkpoint of the round before would be resumed.
        config = make_config(folder, "cnn").model_copy(update={"uid": f"u{number}"})
        (folder / "worker.json").write_text(json.dumps(config.to_wire()))
        times.append((first_step(WORKER, folder), first_step(BARE, folder)))
    times = times[WARM:]
    print("small CNN, from start to the first step")
    for number, way in enumerate(("worker", "bare script")):
        print(f"  {way:26}{statistics.median(each[number] for each in times):14.2f} s")
    print(f"  {'ratio, median of pairs':26}{statistics.median(worker / bare for worker, bare in times):14.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        compare_runs(rounds, Path(name))
        compare_first_steps(rounds, Path(name))


if __name__ == "__main__":
    main()
