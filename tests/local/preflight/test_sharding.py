"""What the preflight predicts of a model that ranks share, against what two ranks really hold after a step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainwright.api.job import read_spec
from trainwright_worker.facts import Facts
from trainwright_worker.preflight.advice import Need
from trainwright_worker.preflight.budget import setup_of
from trainwright_worker.preflight.measure import Gauge

pytestmark = pytest.mark.local

RANK = Path(__file__).with_name("sharded_rank.py")
TEXT = {"text": {"path": "corpus"}, "tokenizer": {"maxLength": 32}}
MODELS = {
    "gpt": (
        {"task": "language-modeling", "model": {"name": "gpt", "args": {"dimension": 64, "heads": 4, "layers": 2}}, "dataset": TEXT},
        Facts((32,), 500, 500, 0),
    ),
    "resnet": ({"model": {"name": "torchvision:resnet18"}, "dataset": {"imageFolder": {"path": "i"}}}, Facts((3, 64, 64), 10)),
    "mlp": ({"model": {"name": "mlp", "args": {"hidden": [129, 65]}}, "dataset": {"builtin": {"name": "digits"}}}, Facts((64,), 10)),
}  # fmt: skip


def run_ranks(raw, facts, meeting):
    question = json.dumps([raw, [list(facts.shape), facts.outputs, facts.vocabulary, facts.padding]])
    ranks = [
        subprocess.Popen(
            [sys.executable, RANK, question, str(rank), str(meeting)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=240) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said[0][1] + said[1][1]
    return [json.loads(output.splitlines()[-1]) for output, _ in said]


@pytest.mark.parametrize(
    ("name", "optimizer", "passes"),
    [("gpt", "adamw", 1), ("gpt", "muon", 1), ("resnet", "adamw", 1), ("mlp", "sgd", 1), ("gpt", "adamw", 2)],
)
def test_a_rank_holds_the_part_that_was_predicted(tmp_path, name, optimizer, passes):
    part, facts = MODELS[name]
    raw = {
        **part,
        "optimizer": {"name": optimizer},
        "training": {"steps": 1, "globalBatchSize": 8, "microBatchSize": 4 // passes},
        "parallelism": "fsdp",
        "workers": {"processesPerWorker": 2},
    }
    spec = read_spec(raw)
    predicted = Need(Gauge(spec, facts, cuda=False), spec).memory(setup_of(spec, cuda=False))
    for held in run_ranks(raw, facts, tmp_path / "meeting"):
        # Also between the passes of a step, each of which could otherwise leave the gradient of the whole model.
        between = held.pop("between")
        assert between == [pytest.approx(predicted.gradients, rel=0.02)] * (passes - 1)
        # Rows are dealt out whole, so of an odd number of them one rank has one more.
        for kind, value in held.items():
            assert value == pytest.approx(getattr(predicted, kind), rel=0.02), kind
