"""Layers that a user lists: what they make of images, vectors and sequences, and how mistakes are named."""

import pytest
import torch

from trainwright.api.job import read_spec
from trainwright.api.spec.task import TaskName
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build

WORDS = Facts((7,), 2, vocabulary=20, padding=0)
FRAMES = Facts((9, 4), 2)
IMAGES = Facts((3, 8, 8), 2)
EMBEDDING = {"embedding": {"dimension": 6}}
DENSE = {"dense": {"units": 2}}


def make(layers, facts, task=TaskName.CLASSIFICATION):
    spec = read_spec(
        {"model": {"layers": layers}, "dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}}
    )
    torch.manual_seed(0)
    return build(spec.model_copy(update={"task": task}), facts)


@pytest.mark.parametrize(
    ("layers", "facts", "count"),
    [
        ([EMBEDDING, {"lstm": {"units": 5}}, DENSE], WORDS, 20 * 6 + 4 * 5 * (6 + 5 + 2) + 12),
        (
            [EMBEDDING, {"gru": {"units": 5, "output": "sequence"}}, {"rnn": {"units": 3}}, DENSE],
            WORDS,
            20 * 6 + 3 * 5 * (6 + 5 + 2) + 3 * (5 + 3 + 2) + 8,
        ),
        (
            [{"embedding": {"dimension": 6, "vocabulary": 30}}, {"globalAvgPool": {}}, DENSE],
            WORDS,
            30 * 6 + 14,
        ),
        ([{"lstm": {"units": 5, "bidirectional": True}}, DENSE], FRAMES, 2 * 4 * 5 * (4 + 5 + 2) + 22),
        ([{"layerNorm": {}}, {"dense": {"units": 3}}, {"globalAvgPool": {}}, DENSE], FRAMES, 8 + 15 + 8),
        (
            [
                {"conv2d": {"channels": 4, "kernelSize": 3}},
                {"batchNorm": {"activation": "relu"}},
                {"avgPool2d": {}},
                {"layerNorm": {}},
                {"globalAvgPool": {}},
                {"batchNorm": {}},
                DENSE,
            ],
            IMAGES,
            4 * 27 + 4 + 8 + 2 * 4 * 9 + 8 + 10,
        ),
    ],
)
def test_layers_have_the_expected_weights_and_run(layers, facts, count):
    model = make(layers, facts)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    inputs = torch.randint(1, 20, (3, 7)) if facts is WORDS else torch.rand(3, *facts.shape)
    outputs = model(inputs)
    assert outputs.shape == (3, 2)
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    "reader",
    [
        [{"lstm": {"units": 5}}],
        [{"gru": {"units": 5, "bidirectional": True, "layers": 2}}],
        [{"rnn": {"units": 5, "output": "sequence", "bidirectional": True}}, {"globalAvgPool": {}}],
        [{"dense": {"units": 5, "activation": "tanh"}}, {"layerNorm": {}}, {"globalAvgPool": {}}],
    ],
)
def test_padding_never_changes_what_layers_say(reader):
    model = make([EMBEDDING, *reader, DENSE], WORDS).eval()
    tokens = torch.randint(1, 20, (2, 7))
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 3:] = False
    logits = model(tokens, mask)
    torch.testing.assert_close(logits[1:], model(tokens[1:, :3]))


def test_layers_can_be_a_language_model():
    facts = Facts((7,), 20, vocabulary=20)
    layers = [EMBEDDING, {"lstm": {"units": 5, "output": "sequence"}}, {"dense": {"units": 20}}]
    assert make(layers, facts, TaskName.LANGUAGE_MODELING)(torch.zeros(2, 7, dtype=torch.int64)).shape == (2, 7, 20)


@pytest.mark.parametrize(
    ("layers", "facts", "task", "words"),
    [
        (
            # As published: ten outputs for reviews that are good or bad.
            [{"embedding": {"dimension": 64}}, {"lstm": {"units": 64}}, {"dense": {"units": 10}}],
            WORDS,
            "classification",
            r"spec.model.layers\[2\]: the last layer has 10 outputs, but the data has 2 classes",
        ),
        (
            # As published: the dense layer of the two convolutions expects another shape.
            [
                {"conv2d": {"channels": 32, "kernelSize": 3, "activation": "relu"}},
                {"conv2d": {"channels": 64, "kernelSize": 3, "activation": "relu"}},
                {"maxPool2d": {}},
                {"dense": {"units": 128, "inputs": 64 * 7 * 7}},
                {"dense": {"units": 10}},
            ],
            Facts((1, 28, 28), 10),
            "classification",
            r"spec.model.layers\[3\].dense.inputs: 3136, but the layers before it produce 9216",
        ),
        (
            [DENSE],
            WORDS,
            "classification",
            r"layers\[0\]: the data are token ids, which need an embedding as the first layer",
        ),
        ([EMBEDDING, DENSE], Facts((4,), 2), "classification", r"layers\[0\].embedding: needs token ids, but gets 4"),
        (
            [EMBEDDING, EMBEDDING, DENSE],
            WORDS,
            "classification",
            r"layers\[1\].embedding: needs token ids, but gets the outputs of another layer",
        ),
        (
            [{"embedding": {"dimension": 6, "vocabulary": 19}}, {"rnn": {"units": 2}}],
            WORDS,
            "classification",
            r"layers\[0\].embedding.vocabulary: 19, but the tokenizer has 20 tokens",
        ),
        ([EMBEDDING, DENSE], WORDS, "classification", r"layers\[1\]: the layers end with a sequence"),
        (
            [EMBEDDING, {"flatten": {}}, DENSE],
            WORDS,
            "classification",
            r"layers\[1\].flatten: cannot flatten sequences",
        ),
        (
            [{"dense": {"units": 3}}, {"lstm": {"units": 2}}],
            Facts((4,), 2),
            "classification",
            r"layers\[1\].lstm: needs a sequence, but gets 3 numbers",
        ),
        ([{"batchNorm": {}}, {"rnn": {"units": 2}}], FRAMES, "classification", r"layers\[0\].batchNorm: needs images"),
        ([{"globalAvgPool": {}}], Facts((4,), 4), "classification", r"layers\[0\].globalAvgPool: needs images"),
        (
            [{"avgPool2d": {"kernelSize": 9}}, DENSE],
            IMAGES,
            "classification",
            r"layers\[0\].avgPool2d: a 9x9 window does not fit an image of 3x8x8",
        ),
        (
            [EMBEDDING, {"lstm": {"units": 20}}],
            Facts((7,), 20, vocabulary=20),
            "language-modeling",
            r"layers\[1\]: task language-modeling needs outputs for every position",
        ),
        (
            [EMBEDDING, {"lstm": {"units": 8, "output": "sequence"}}],
            Facts((7,), 20, vocabulary=20),
            "language-modeling",
            r"layers\[1\]: the last layer has 8 outputs, but the data has 20 tokens",
        ),
    ],
)
def test_layers_that_do_not_fit_are_named(layers, facts, task, words):
    with pytest.raises(UserError, match=words):
        make(layers, facts, TaskName(task))
