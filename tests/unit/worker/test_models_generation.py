"""Text from our language models: with and without a memory, greedy and drawn."""

import pytest
import torch

from trainwright.api.job import read_spec
from trainwright.api.spec.task import TaskName
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build
from trainwright_worker.models.generation import generate

TINY = {"dimension": 16, "heads": 2, "layers": 2}
RECURRENT = {"embedding": 6, "hidden": 5, "layers": 2}
LAYERS = [{"embedding": {"dimension": 6}}, {"gru": {"units": 9, "output": "sequence"}}, {"dense": {"units": 20}}]


def make(model, context=12):
    raw = {"model": model, "dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}}
    spec = read_spec(raw).model_copy(update={"task": TaskName.LANGUAGE_MODELING})
    torch.manual_seed(0)
    model = build(spec, Facts((context,), 20, vocabulary=20))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # so that it has opinions
    return model


def read_again(model, ids, count, context=None):
    """Return the likeliest continuation, by reading the whole text for every token."""
    model.eval()
    with torch.no_grad():
        for _ in range(count):
            seen = ids if context is None else ids[:, -context:]
            ids = torch.cat((ids, model(seen)[:, -1:, :20].argmax(2)), 1)
    return ids


@pytest.mark.parametrize(
    "model",
    [
        {"name": "gpt", "args": TINY | {"vocabularyMultiple": 32}},
        {"name": "transformer", "args": TINY | {"positions": "sinusoidal"}},
        {"name": "transformer", "args": TINY | {"positions": "rotary"}},
        {"name": "rnn", "args": RECURRENT},
        {"name": "lstm", "args": RECURRENT},
        {"name": "gru", "args": RECURRENT},
        {"layers": LAYERS},
    ],
    ids=lambda model: str(model.get("name", "layers")),
)
def test_a_memory_changes_nothing_but_the_time(model):
    model = make(model)
    prompts = torch.randint(0, 20, (3, 4))
    ids = generate(model, prompts, 8, temperature=0)
    assert torch.equal(ids, read_again(model, prompts, 8))
    assert model.training is False, "it was in evaluation before"
    assert len(set(ids[:, 4:].flatten().tolist())) > 1


def test_a_text_longer_than_the_context_sees_its_end():
    model = make({"name": "gpt", "args": TINY}, context=6)
    prompts = torch.randint(0, 20, (2, 9))
    assert torch.equal(generate(model, prompts, 5, temperature=0), read_again(model, prompts, 5, context=6))
    short = prompts[:, :4]
    assert torch.equal(generate(model, short, 7, temperature=0), read_again(model, short, 7, context=6))


class Fixed(torch.nn.Module):
    """A model that always says the same."""

    def __init__(self, probabilities):
        super().__init__()
        self.logits = torch.tensor(probabilities).log()

    def forward(self, inputs):
        return self.logits.expand(*inputs.shape, -1)


def shares(count=100_000, **options):
    generator = torch.Generator().manual_seed(0)
    prompts = torch.zeros(count, 1, dtype=torch.int64)
    drawn = generate(Fixed([0.5, 0.3, 0.15, 0.05]), prompts, 1, generator=generator, **options)[:, 1]
    return (torch.bincount(drawn, minlength=4) / count).tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [0.685, 0.247, 0.062, 0.007]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_k": 9}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_p": 0.8}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.81}, [0.526, 0.316, 0.158, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_as_asked(options, expected):
    assert shares(**options) == pytest.approx(expected, abs=0.01)  # six standard deviations


def test_the_same_seed_draws_the_same():
    model = make({"name": "gpt", "args": TINY})
    prompts = torch.zeros(2, 1, dtype=torch.int64)
    first, second = (
        generate(model, prompts, 6, temperature=2.0, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_a_stop_ends_a_text_and_all_stops_end_the_work():
    class Counting(torch.nn.Module):
        def forward(self, inputs):
            return torch.nn.functional.one_hot((inputs + 1) % 10, 10).float()

    ids = generate(Counting(), torch.tensor([[5], [3]]), 20, temperature=0, stop=7)
    assert ids.tolist() == [[5, 6, 7, 7, 7], [3, 4, 5, 6, 7]]
