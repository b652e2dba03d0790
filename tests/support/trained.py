"""Small models trained in this process, for tests of what comes after training."""

import json
import random
from typing import Any

import torch
from torch import nn

from trainwright.api.job import read_spec
from trainwright.api.spec import TrainingJobSpec
from trainwright_worker.batch import run_model
from trainwright_worker.data.dataset import Dataset, measure, process, read
from trainwright_worker.models.build import build
from trainwright_worker.tasks.table import make_task

GOOD = ("wonderful", "moving", "brilliant", "loved", "superb")
BAD = ("boring", "dreadful", "awful", "hated", "dull")
_REST = (
    "the",
    "film",
    "was",
    "a",
    "story",
    "about",
    "people",
    "in",
    "some",
    "town",
    "and",
    "it",
    "had",
    "many",
    "music",
)


def write_reviews(path: Any, count: int = 200) -> None:
    """Write reviews whose label is decided by three words among many that mean nothing."""
    chance = random.Random(0)
    lines = []
    for number in range(count):
        good = number % 2 == 1
        words = [chance.choice(_REST) for _ in range(chance.randint(6, 20))]
        for _ in range(3):
            words.insert(chance.randint(0, len(words)), chance.choice(GOOD if good else BAD))
        lines.append(json.dumps({"text": " ".join(words), "label": "positive" if good else "negative"}))
    path.write_text("\n".join(lines) + "\n")


def train(
    raw: dict[str, Any], steps: int, root: str = "", rate: float = 0.01
) -> tuple[TrainingJobSpec, Dataset, nn.Module]:
    """Return the spec, the data and the model after so many steps of Adam, for evaluation."""
    spec = read_spec({"training": {"epochs": 1}, **raw})
    splits, classes = read(spec, root)
    data = process(spec, splits, measure(spec, splits, classes, root))
    torch.manual_seed(0)
    task = make_task(spec)
    facts = task.facts(data)
    model = build(spec, facts, root)
    loss = task.loss(facts)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(steps):
        batch = data.splits.train.take(torch.randint(len(data.splits.train), (32,)))
        outputs = run_model(model, batch)
        optimizer.zero_grad()
        loss.mean(outputs, batch).backward()
        optimizer.step()
    return spec, data, model.eval().requires_grad_(requires_grad=False)
