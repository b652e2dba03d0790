"""Our own models: sizes, shapes, what padding may not do, and what does not fit."""

import math

import pytest
import torch
from torch import nn

from trainwright.api.job import read_spec
from trainwright.api.spec.task import TaskName
from trainwright_worker.distributed.parallel import draw
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build, draws_layer_by_layer

WORDS = Facts((7,), 3, vocabulary=20, padding=0)
FRAMES = Facts((9, 4), 5)
TEXT = Facts((8,), 20, vocabulary=20)
IMAGES = Facts((1, 28, 28), 10)

TINY = {"dimension": 16, "heads": 2, "layers": 2}
RECURRENT = {"embedding": 6, "hidden": 5}


def spec_of(model, task=TaskName.CLASSIFICATION, **changes):
    """Return a spec; its data do not matter here, since a model is built from facts."""
    raw = {"model": model, "dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}, **changes}
    return read_spec(raw).model_copy(update={"task": task})


def make(name, facts=WORDS, task=TaskName.CLASSIFICATION, **args):
    torch.manual_seed(0)
    return build(spec_of({"name": name, "args": args}, task), facts).eval()


def weights(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("size", "count"),
    [
        # Published by OpenAI as 124M, 355M, 774M and 1.5B, and counted in Hugging Face's copies.
        ("124M", 124_439_808),
        ("355M", 354_823_168),
        ("774M", 774_030_080),
        ("1.5B", 1_557_611_200),
        ("125M", 125_226_240),
        ("1.3B", 1_315_723_264),
        ("175B", 174_604_259_328),
    ],
)
def test_gpt_has_the_published_sizes_and_allocates_none_of_it(size, count):
    with torch.device("meta"):
        model = make("gpt", Facts((1024,), 50257, vocabulary=50257), TaskName.LANGUAGE_MODELING, size=size)
    assert weights(model) == count
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    if size == "124M":
        assert model(torch.zeros(2, 5, dtype=torch.int64, device="meta")).shape == (2, 5, 50257)


def test_first_weights_of_a_gpt_are_as_published():
    model = make("gpt", TEXT, TaskName.LANGUAGE_MODELING, dimension=256, heads=4, layers=8)
    assert float(model.inputs.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    for block in model.blocks:
        assert float(block.attention.qkv.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        for last in (block.attention.out, block.feed_forward.down):
            assert float(last.weight.detach().std()) == pytest.approx(0.02 / math.sqrt(2 * 8), rel=0.05)
            assert float(last.bias.detach().abs().max()) == 0
    logits = model(torch.randint(0, 20, (4, 8)))
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(0, 20, (32,)))
    assert float(loss.detach()) == pytest.approx(math.log(20), rel=0.05), "at first, every token is as likely"


def test_a_vocabulary_is_padded_for_speed():
    model = make("gpt", TEXT, TaskName.LANGUAGE_MODELING, layers=1, vocabularyMultiple=64)
    assert model.inputs.weight.shape == (64, 384)
    assert (model.vocabulary, model.context) == (20, 8)


def test_tokens_that_the_tokenizer_does_not_have_are_never_drawn():
    model = make("gpt", TEXT, TaskName.LANGUAGE_MODELING, layers=1, vocabulary=30, vocabularyMultiple=8)
    assert model.inputs.weight.shape == (32, 384)
    assert model.vocabulary == 20


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_a_text_classifier_has_the_weights_of_the_lesson(name):
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[name]
    model = make(name, Facts((100,), 2, vocabulary=10_000), dropout=0.2)
    assert weights(model) == 10_000 * 64 + gates * 2 * (64 * 64 + 64) + 64 * 2 + 2
    assert model.dropout.p == 0.2


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("rnn", RECURRENT),
        ("lstm", RECURRENT | {"layers": 2, "pooling": "mean"}),
        ("gru", RECURRENT | {"bidirectional": True}),
        ("lstm", RECURRENT | {"bidirectional": True, "layers": 2, "pooling": "mean"}),
        ("transformer", TINY),
        ("transformer", TINY | {"positions": "sinusoidal"}),
        ("transformer", TINY | {"positions": "rotary"}),
    ],
)
@pytest.mark.parametrize("facts", [WORDS, FRAMES], ids=["words", "frames"])
def test_padding_never_changes_what_a_model_says(name, args, facts):
    model = make(name, facts, **args)
    inputs = torch.randint(1, 20, (3, 7)) if facts is WORDS else torch.rand(3, 9, 4)
    mask = torch.ones(inputs.shape[:2], dtype=torch.bool)
    mask[1, 4:] = False
    logits = model(inputs, mask)
    assert logits.shape == (3, facts.outputs)
    torch.testing.assert_close(logits[1:2], model(inputs[1:2, :4]))
    torch.testing.assert_close(logits[:1], model(inputs[:1]))
    changed = inputs.clone()
    changed[1, 4:] = 9
    assert torch.equal(model(changed, mask), logits)
    empty = torch.zeros_like(mask)
    assert model(inputs, empty).isfinite().all(), "a text without a word is not a reason to end a job"


@pytest.mark.parametrize(
    ("name", "args"), [("gru", RECURRENT | {"bidirectional": True}), ("transformer", TINY), ("lstm", RECURRENT)]
)
def test_a_transcriber_says_something_for_every_frame(name, args):
    model = make(name, FRAMES, TaskName.TRANSCRIPTION, **args)
    frames = torch.rand(2, 9, 4)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    logits = model(frames, mask)
    assert logits.shape == (2, 9, 5)
    torch.testing.assert_close(logits[1:, :5], model(frames[1:, :5]))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("lstm", RECURRENT),
        ("gpt", TINY),
        ("transformer", TINY),
        ("transformer", TINY | {"positions": "sinusoidal"}),
        ("transformer", TINY | {"positions": "rotary"}),
    ],
)
def test_a_language_model_never_looks_ahead(name, args):
    model = make(name, TEXT, TaskName.LANGUAGE_MODELING, **args)
    tokens = torch.randint(0, 20, (2, 8))
    logits = model(tokens)
    assert logits.shape == (2, 8, 20)
    changed = tokens.clone()
    changed[:, 5:] = 3
    torch.testing.assert_close(model(changed)[:, :5], logits[:, :5])
    assert not torch.equal(model(changed)[:, 5:], logits[:, 5:])


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_an_encoder_knows_the_order_of_words(positions):
    model = make("transformer", **TINY, positions=positions)
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    assert not torch.allclose(model(tokens), model(tokens.flip(1)), atol=1e-6)


def test_rotary_attention_depends_on_distances_only():
    model = make("transformer", Facts((32,), 20, vocabulary=20), TaskName.LANGUAGE_MODELING, **TINY, positions="rotary")
    attention = model.blocks[0].attention
    from trainwright_worker.models.transformer import rotations  # noqa: PLC0415

    x = torch.rand(1, 6, 16)
    near = attention(x, None, rotations(torch.arange(6), 8), None)
    far = attention(x, None, rotations(torch.arange(20, 26), 8), None)
    torch.testing.assert_close(near, far)


def test_regularization_gives_the_dropout_that_args_do_not():
    spec = spec_of({"name": "transformer", "args": TINY}, regularization={"dropout": 0.3})
    assert build(spec, WORDS).config.dropout == 0.3
    spec = spec_of({"name": "transformer", "args": TINY | {"dropout": 0.0}}, regularization={"dropout": 0.3})
    assert build(spec, WORDS).config.dropout == 0


@pytest.mark.parametrize(
    ("model", "facts", "task", "words"),
    [
        ({"name": "lstm"}, IMAGES, "classification", "lstm reads text or frames, but the data has images of 1x28x28"),
        ({"name": "gpt"}, Facts((4,), 3), "language-modeling", "gpt reads text or frames, but the data has 4 features"),
        ({"name": "gpt"}, WORDS, "classification", "gpt is a language model, but spec.task is classification"),
        ({"name": "mlp"}, WORDS, "classification", "spec.model.name: mlp: the data are token ids"),
        ({"name": "cnn"}, WORDS, "classification", "spec.model.name: cnn: the data are token ids"),
        ({"name": "cnn"}, FRAMES, "classification", "cnn: needs images .* but gets sequences of 9 x 4"),
        (
            {"name": "transformer", "args": {"dimension": 10, "heads": 3}},
            WORDS,
            "classification",
            "spec.model.args.heads: 3 heads do not evenly divide dimension 10",
        ),
        (
            {"name": "transformer", "args": {"dimension": 6, "heads": 2, "positions": "rotary"}},
            WORDS,
            "classification",
            "spec.model.args.heads: rotary positions need an even number",
        ),
        (
            {"name": "gpt", "args": {"size": "124M"}},
            Facts((2048,), 90, vocabulary=90),
            "language-modeling",
            "spec.model.args.context: the model takes 1024 positions, but the data has sequences of length 2048",
        ),
        (
            {"name": "gpt", "args": {"vocabulary": 19}},
            TEXT,
            "language-modeling",
            "spec.model.args.vocabulary: 19, but the tokenizer has 20 tokens",
        ),
        (
            {"name": "lstm", "args": {"bidirectional": True}},
            TEXT,
            "language-modeling",
            "spec.model.args.bidirectional: true, but task language-modeling predicts positions that the model would see",
        ),
        ({"name": "transformer"}, FRAMES, "language-modeling", "spec.task: language-modeling needs text"),
        (
            {
                "layers": [
                    {"embedding": {"dimension": 4}},
                    {"gru": {"units": 4, "bidirectional": True, "output": "sequence"}},
                ]
            },
            TEXT,
            "language-modeling",
            r"spec.model.layers\[1\]: bidirectional: true, but task language-modeling predicts positions that the model would see",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_name(model, facts, task, words):
    with pytest.raises(UserError, match=words):
        build(spec_of(model, TaskName(task)), facts)


LAYERS = {
    "layers": [
        {"conv2d": {"channels": 4, "kernelSize": 3}},
        {"batchNorm": {"activation": "relu"}},
        {"dense": {"units": 6}},
        {"dense": {"units": 10}},
    ]
}


@pytest.mark.parametrize(
    ("model", "facts", "task"),
    [
        *[({"name": name, "args": RECURRENT}, WORDS, TaskName.CLASSIFICATION) for name in ("rnn", "lstm", "gru")],
        ({"name": "lstm", "args": {**RECURRENT, "layers": 2, "bidirectional": True}}, FRAMES, TaskName.TRANSCRIPTION),
        ({"name": "transformer", "args": TINY}, WORDS, TaskName.CLASSIFICATION),
        ({"name": "transformer", "args": TINY}, FRAMES, TaskName.TRANSCRIPTION),
        ({"name": "gpt", "args": TINY}, TEXT, TaskName.LANGUAGE_MODELING),
        *[({"name": name}, IMAGES, TaskName.CLASSIFICATION) for name in ("cnn", "mlp", "linear")],
        ({"name": "lenet"}, Facts((1, 32, 32), 10), TaskName.CLASSIFICATION),
        (LAYERS, IMAGES, TaskName.CLASSIFICATION),
    ],
    ids=str,
)
def test_layers_that_draw_their_weights_later_draw_the_same(model, facts, task):
    spec = spec_of(model, task)
    assert draws_layer_by_layer(spec.model)
    torch.manual_seed(3)
    expected = build(spec, facts)
    torch.manual_seed(3)
    with torch.device("meta"):
        later = build(spec, facts)
    for layer in later.modules():
        draw(layer)
    state = later.state_dict()
    assert state.keys() == expected.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in expected.state_dict().items())
    assert not any(tensor.is_meta for tensor in (*later.parameters(), *later.buffers()))
