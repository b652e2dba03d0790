"""Networks and losses of the user's: what they are called with, and what is said of mistakes."""

import sys

import pytest
import torch

from trainwright.api.job import read_spec
from trainwright_worker.batch import Batch
from trainwright_worker.errors import OutOfMemoryError, UserError, explain
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build, draws_layer_by_layer
from trainwright_worker.own_code import add_code
from trainwright_worker.tasks.table import make_task

FACTS = Facts((4,), 3)
MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width, *, input_shape, outputs, depth=1):
        super().__init__()
        self.width = width
        self.layer = nn.Linear(*input_shape, outputs)

    def forward(self, inputs):
        return self.layer(inputs)

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs):
        return self.layer(inputs)

class Pair(Fixed):
    def forward(self, inputs):
        return self.layer(inputs), None

class Picky(Fixed):
    def __init__(self):
        raise ValueError("no such variant")

class Hungry(Fixed):
    def __init__(self):
        raise MemoryError

class ReadsValues(Net):
    def forward(self, inputs):
        return super().forward(inputs if inputs.sum() > 0 else -inputs)

class Frozen(nn.Module):
    pass

def number():
    return 3

def squared(outputs, target, power=2):
    return (outputs.sum(1) - target).abs() ** power

def mean(outputs, target):
    return outputs.mean()

def failing(outputs, target):
    raise KeyError("weights")

constant = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the module `ownnets` and two that cannot be imported, on the import path during the test."""
    (tmp_path / "ownnets.py").write_text(MODULE)
    (tmp_path / "ownbroken.py").write_text("def (:\n")
    (tmp_path / "ownneedy.py").write_text("import does_not_exist\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own")]:
        del sys.modules[name]


def spec_of(folder, **parts):
    raw = {
        "code": {"path": str(folder)},
        "model": {"class": "ownnets:Net", "args": {"width": 8}},
        "dataset": {"builtin": {"name": "iris"}},
        "training": {"epochs": 1},
        **parts,
    }
    spec = read_spec(raw)
    add_code(spec, "")
    return spec


def test_a_class_gets_its_arguments_and_the_facts_that_it_has_parameters_for(folder):
    spec = spec_of(folder)
    model = build(spec, FACTS)
    assert model.width == 8
    assert model(torch.zeros(2, 4)).shape == (2, 3)
    assert not draws_layer_by_layer(spec.model)


def test_a_model_that_reads_values_is_left_to_its_first_step(folder):
    build(spec_of(folder, model={"class": "ownnets:ReadsValues", "args": {"width": 1}}), FACTS)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"class": "ownnets:Nett"}, "spec.model.class: ownnets has no Nett; did you mean Net?"),
        (
            {"class": "ownnot:Net"},
            "spec.model.class: no module ownnot in the folder of spec.code or in the worker image",
        ),
        ({"class": "ownbroken:Net"}, "spec.model.class: the import of ownbroken failed: SyntaxError: invalid syntax"),
        (
            {"class": "ownneedy:Net"},
            "spec.model.class: the import of ownneedy failed: ModuleNotFoundError: No module named",
        ),
        ({"class": "ownnets:constant"}, "spec.model.class: ownnets:constant is of type int, not a class or function"),
        ({"class": "ownnets:Net"}, "spec.model.args: missing a required argument: 'width'"),
        (
            {"class": "ownnets:Net", "args": {"width": 1, "high": 2}},
            "spec.model.args: got an unexpected keyword argument 'high'",
        ),
        ({"class": "ownnets:Picky"}, "spec.model.class: ownnets:Picky could not be built: ValueError: no such variant"),
        (
            {"class": "ownnets:number"},
            "spec.model.class: ownnets:number returned an object of type int, not a torch.nn.Module",
        ),
        ({"class": "ownnets:Frozen"}, "spec.model.class: ownnets:Frozen has no parameters to train"),
        (
            {"class": "ownnets:Fixed"},
            "spec.model.class: ownnets:Fixed returns outputs of 2 per sample, but the data needs 3",
        ),
        (
            {"class": "ownnets:Pair"},
            "spec.model.class: ownnets:Pair returns an object of type tuple: return the tensor of outputs alone",
        ),
    ],
)
def test_mistakes_in_a_class_name_the_field(folder, model, said):
    with pytest.raises(UserError) as caught:
        build(spec_of(folder, model=model), FACTS)
    assert caught.value.message.startswith(said)


def test_a_lack_of_memory_is_no_mistake_of_the_class(folder):
    with pytest.raises(MemoryError) as caught:
        build(spec_of(folder, model={"class": "ownnets:Hungry"}), FACTS)
    assert isinstance(explain(caught.value), OutOfMemoryError)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match=r"spec.code.path: there is no folder .*/src"):
        spec_of(tmp_path / "src")


def loss_of(folder, name, **loss):
    spec = spec_of(folder, loss={"function": f"ownnets:{name}", **loss})
    task = make_task(spec)
    assert task.loss(FACTS) is task.evaluation_loss(FACTS)
    return task.loss(FACTS)


def test_a_loss_is_the_sum_over_samples_and_their_number(folder):
    loss = loss_of(folder, "squared", args={"power": 3})
    outputs, batch = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), Batch.of(torch.zeros(2, 4), torch.tensor([1, 0]))
    assert float(loss.total(outputs, batch)) == 2**3 + 1
    assert loss.count(batch) == 2
    parts = [loss.total(outputs[i : i + 1], batch.slice(i, i + 1)) for i in range(2)]
    assert float(sum(parts)) == float(loss.total(outputs, batch))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mean", "spec.loss.function: ownnets:mean returned a scalar for 2 samples: return one loss per sample"),
        ("failing", "spec.loss.function: ownnets:failing failed: KeyError: 'weights'"),
    ],
)
def test_mistakes_in_a_loss_name_the_field(folder, name, said):
    loss = loss_of(folder, name)
    with pytest.raises(UserError) as caught:
        loss.total(torch.zeros(2, 3), Batch.of(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)))
    assert caught.value.message == said


def test_a_loss_must_take_its_arguments(folder):
    with pytest.raises(UserError, match=r"spec.loss.function: got an unexpected keyword argument 'gamma'"):
        loss_of(folder, "squared", args={"gamma": 1})
