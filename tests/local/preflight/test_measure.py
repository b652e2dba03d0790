"""What the preflight predicts without data, against what torch really keeps."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trainwright.api.exit_codes import FailureClass, classify
from trainwright.api.job import read_spec
from trainwright.api.spec.task import TaskName
from trainwright.api.spec.training import Precision
from trainwright_worker.batch import Batch, run_model
from trainwright_worker.errors import UserError, explain
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build
from trainwright_worker.models.recompute import enable_gradient_checkpointing
from trainwright_worker.optim.optimizer import make_optimizer
from trainwright_worker.preflight.check import measure_job
from trainwright_worker.preflight.dry import take_dry_step
from trainwright_worker.preflight.ledger import Ledger
from trainwright_worker.preflight.measure import Gauge, UnmeasurableError
from trainwright_worker.tasks.table import make_task
from trainwright_worker.training.engine import Engine

pytestmark = pytest.mark.local

TEXT = {"text": {"path": "corpus"}, "tokenizer": {"maxLength": 32}}
REVIEWS = {"labeledText": {"path": "reviews"}, "tokenizer": {"maxLength": 32}}
TOKENS = Facts((32,), 500, 500, 0)
MODELS = {
    "mlp": ({"name": "mlp", "args": {"hidden": [256, 128]}}, None, Facts((100,), 10), TaskName.CLASSIFICATION),
    "cnn": ({"name": "cnn"}, None, Facts((1, 28, 28), 10), TaskName.CLASSIFICATION),
    "lstm": ({"name": "lstm"}, REVIEWS, Facts((32,), 2, 500, 0), TaskName.CLASSIFICATION),
    "gru": ({"name": "gru"}, REVIEWS, Facts((32,), 2, 500, 0), TaskName.CLASSIFICATION),
    "encoder": ({"name": "transformer"}, REVIEWS, Facts((32,), 2, 500, 0), TaskName.CLASSIFICATION),
    "gpt": ({"name": "gpt", "args": {"dimension": 128, "heads": 4, "layers": 4}}, TEXT, TOKENS, TaskName.LANGUAGE_MODELING),
    "resnet": ({"name": "torchvision:resnet18"}, {"imageFolder": {"path": "i"}}, Facts((3, 64, 64), 10), TaskName.CLASSIFICATION),
}  # fmt: skip
OPTIMIZERS = [
    {"name": "sgd"},
    {"name": "sgd", "momentum": 0.9},
    {"name": "adam"},
    {"name": "adamw", "weightDecay": 0.1},
    {"name": "adafactor"},
    {"name": "lamb"},
    {"name": "lars", "momentum": 0.9},
    {"name": "muon"},
]


def make(name, **changes):
    model, dataset, facts, task = MODELS[name]
    raw = {
        "task": str(task),
        "model": model,
        "dataset": dataset or {"builtin": {"name": "digits"}},
        "training": {"steps": 1},
        **changes,
    }
    return read_spec(raw), facts


def batch_of(facts, task, samples=16):
    generator = torch.Generator().manual_seed(1)
    if facts.vocabulary is None:
        inputs = torch.randn(samples, *facts.shape, generator=generator)
    else:
        inputs = torch.randint(facts.vocabulary, (samples, *facts.shape), generator=generator)
    shape = (samples, *facts.shape) if task == TaskName.LANGUAGE_MODELING else (samples,)
    return Batch.of(inputs, torch.randint(facts.outputs, shape, generator=generator))


def kept(model, spec, facts, batch):
    """Return the bytes that torch saves for the backward pass, each storage once, weights and inputs aside."""
    others = [*model.parameters(), *model.buffers(), batch.input, batch.target]
    known = {tensor.untyped_storage().data_ptr() for tensor in others}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes(), tensor  # held, so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        make_task(spec).loss(facts).total(run_model(model, batch), batch)
    return sum(size for size, _ in saved.values())


@pytest.mark.parametrize("name", MODELS)
def test_activations_are_predicted_within_a_quarter(name):
    spec, facts = make(name)
    predicted = Gauge(spec, facts, cuda=False).passes(16, Precision.FP32, checkpointing=False)
    real = kept(build(spec, facts).train(), spec, facts, batch_of(facts, spec.task))
    assert predicted.saved == pytest.approx(real, rel=0.25)
    assert predicted.peak >= predicted.saved
    batch = batch_of(facts, spec.task)
    assert predicted.sample == (batch.input.nbytes + batch.target.nbytes) // 16


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_predicted_exactly(name):
    spec, facts = make(name)
    weights = Gauge(spec, facts, cuda=False).weights()
    model = build(spec, facts)
    assert weights.parameters == weights.trainable == sum(weight.numel() for weight in model.parameters())
    assert weights.all == sum(weight.numel() * weight.element_size() for weight in model.parameters())
    assert weights.buffers == sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda raw: "-".join(map(str, raw.values())))
def test_optimizer_state_is_predicted_exactly(optimizer):
    spec, facts = make("gpt", optimizer=optimizer)
    model = build(spec, facts)
    real = make_optimizer(spec.optimizer, model)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    real.step()
    tensors = [value for state in real.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    expected = sum(value.numel() * value.element_size() for value in tensors)
    assert Gauge(spec, facts, cuda=False).optimizer(spec.optimizer) == expected


def test_checkpointing_is_measured_with_what_it_saves():
    spec, facts = make("gpt")
    gauge = Gauge(spec, facts, cuda=False)
    without = gauge.passes(16, Precision.FP32, checkpointing=False)
    recomputing = gauge.passes(16, Precision.FP32, checkpointing=True)
    assert recomputing.saved < 0.5 * without.saved
    assert recomputing.peak < without.peak
    model = build(spec, facts).train()
    enable_gradient_checkpointing(model)
    assert recomputing.saved >= kept(model, spec, facts, batch_of(facts, spec.task))


def test_half_precision_keeps_half_and_copies_weights():
    spec, facts = make("gpt")
    gauge = Gauge(spec, facts, cuda=False)
    full, half = (gauge.passes(16, precision, checkpointing=False) for precision in (Precision.FP32, Precision.BF16))
    assert 0.4 < half.saved / full.saved < 0.8
    matrices = sum(weight.numel() for name, weight in build(spec, facts).named_parameters() if "blocks" in name)
    assert matrices * 2 <= half.casts <= 1.2 * (matrices * 2 + 500 * 128 * 2)
    assert full.casts == 0


def test_a_teacher_is_counted_with_what_it_works_with():
    spec, facts = make("gpt")
    teacher = read_spec(
        {**make("gpt")[0].to_wire(), "model": {"name": "gpt", "args": {"dimension": 256, "heads": 4, "layers": 2}}}
    )
    gauge, taught = Gauge(spec, facts, cuda=False), Gauge(spec, facts, cuda=False, teacher=teacher.model)
    model = build(teacher, facts)
    expected = [*model.parameters(), *model.buffers()]
    assert gauge.weights().teacher == 0
    assert taught.weights().teacher == sum(value.numel() * value.element_size() for value in expected)
    assert taught.weights().parameters == gauge.weights().parameters
    alone, both = (each.passes(16, Precision.FP32, checkpointing=False) for each in (gauge, taught))
    # Both outputs' probabilities are compared; the teacher keeps nothing of its own blocks.
    assert alone.peak + 2 * alone.logits <= both.peak <= alone.peak + 8 * alone.logits
    own = Gauge(teacher, facts, cuda=False).passes(16, Precision.FP32, checkpointing=False)
    # A forward pass alone; the backward pass of attention takes a little more than twice as much.
    assert both.flops == pytest.approx(alone.flops + own.flops / 3, rel=0.01)


def test_a_teacher_of_another_library_has_no_part_in_its_students_dropout():
    spec = read_spec(
        {
            "model": {"name": "cnn"},
            "dataset": {"builtin": {"name": "digits"}},
            "training": {"epochs": 1},
            "regularization": {"dropout": 0.2},
        }
    )
    teacher = spec.model.model_copy(update={"name": "torchvision:resnet18"})
    assert Gauge(spec, Facts((1, 8, 8), 10), cuda=False, teacher=teacher).weights().teacher > 4 * 11_000_000


def test_arithmetic_is_counted():
    spec, facts = make("mlp")
    engine = Gauge(spec, facts, cuda=False).passes(8, Precision.FP32, checkpointing=False)
    layers = [100 * 256, 256 * 128, 128 * 10]
    # Forward, the gradient of the weights, and the gradient of the inputs of all but the first layer.
    assert engine.flops == 2 * 8 * (3 * sum(layers) - layers[0])
    spec, facts = make("lstm")
    engine = Gauge(spec, facts, cuda=False).passes(8, Precision.FP32, checkpointing=False)
    gates = 4 * 64 * (64 + 64)
    assert engine.flops == pytest.approx(3 * 2 * 8 * 32 * gates, rel=0.01)


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_a_convolution_with_groups_computes_no_more_backwards(groups):
    with FakeTensorMode():
        layer = nn.Conv2d(16, 16, 3, groups=groups, bias=False)
        with Ledger(layer.parameters()) as ledger:
            outputs = layer(torch.rand(2, 16, 8, 8, requires_grad=True))
            forward = ledger.flops
            outputs.sum().backward()
    assert forward == 2 * (2 * 16 * 6 * 6) * 9 * 16 // groups
    assert ledger.flops == 3 * forward


LIBRARIES = {
    "timm:vit_tiny_patch16_224": {"img_size": 32, "patch_size": 16, "depth": 2},
    "timm:convnext_atto": {"patch_size": 2, "depths": [1, 1, 1, 1]},
    "hf:convnext": {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]},
    "torchvision:regnet_y_400mf": {},
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_models_that_compute_with_numbers_while_they_are_built_are_measured(name):
    raw = {"model": {"name": name, "args": LIBRARIES[name]}, "dataset": {"imageFolder": {"path": "i"}}}
    spec, facts = read_spec({**raw, "training": {"steps": 1}}), Facts((3, 32, 32), 10)
    gauge = Gauge(spec, facts, cuda=False)
    weights = gauge.weights()
    assert weights.parameters == sum(weight.numel() for weight in build(spec, facts).parameters())
    assert gauge.optimizer(spec.optimizer) > 2 * weights.all
    assert gauge.passes(2, Precision.FP32, checkpointing=False).flops > 0


@pytest.mark.parametrize("error", [RuntimeError("size of what is not known"), KeyError("x"), NotImplementedError()])
def test_a_model_that_cannot_be_built_without_data_is_no_mistake(monkeypatch, error):
    def fail(*_):
        raise error

    spec, facts = make("mlp")
    monkeypatch.setattr("trainwright_worker.preflight.measure.Gauge._without_weights.__defaults__", (fail,))
    dataset = SimpleNamespace(splits=SimpleNamespace(train=range(8)))
    preflight, lines = measure_job(spec, dataset, facts, "", SimpleNamespace(neighbours=1, size=1))
    assert preflight is None
    assert lines[0].startswith("preflight: memory cannot be estimated")


def test_a_model_that_does_not_fit_the_data_is_a_user_error():
    spec, _ = make("cnn")
    with pytest.raises(UserError, match=r"spec\.model"):
        Gauge(spec, Facts((1, 2, 2), 10), cuda=False).passes(2, Precision.FP32, checkpointing=False)


@pytest.mark.parametrize("name", ["gpt", "resnet"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda raw: "-".join(map(str, raw.values())))
def test_a_dry_step_leaves_every_bit_as_it_was(name, optimizer):
    dropout = {"dropout": 0.1} if name == "gpt" else {}  # ResNet has running statistics instead.
    spec, facts = make(name, optimizer=optimizer, regularization=dropout)
    torch.manual_seed(3)
    model = build(spec, facts)
    made = make_optimizer(spec.optimizer, model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    states = {weight: {key: value.clone() for key, value in state.items()} for weight, state in made.state.items()}
    rates = [group["lr"] for group in made.param_groups]
    random = torch.get_rng_state()
    batch = batch_of(facts, spec.task, 2)
    seconds = take_dry_step(model, lambda batch: run_model(model, batch), make_task(spec).loss(facts).mean, made, batch)
    assert seconds > 0
    assert torch.equal(torch.get_rng_state(), random)
    after = model.state_dict()
    assert [key for key, value in before.items() if value.numpy().tobytes() != after[key].numpy().tobytes()] == []
    assert all(weight.grad is None for weight in model.parameters())
    assert made.state.keys() == states.keys()
    assert all(
        torch.equal(made.state[weight][key], value) for weight in states for key, value in states[weight].items()
    )
    assert [group["lr"] for group in made.param_groups] == rates


def test_a_dry_step_with_infinite_gradients_changes_nothing():
    model = nn.Linear(2, 1)
    before = model.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = Batch.of(torch.full((2, 2), 1e38), torch.zeros(2, 1))
    take_dry_step(model, lambda batch: model(batch.input), lambda out, _: out.square().sum(), optimizer, batch)
    assert torch.equal(model.weight, before)


SMALL = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}


@pytest.mark.parametrize(
    ("model", "precision", "words"),
    [
        ({"name": "lstm"}, "fp16", "on cpu: could not create a primitive"),
        # It reads a text at its end-of-text token, which only a tokenizer of its own puts there.
        ({"name": "hf:bart", "args": SMALL}, "fp32", "on cpu: "),
    ],
)
def test_a_model_that_cannot_take_a_step_is_a_user_error(model, precision, words):
    raw = {"model": model, "dataset": {"labeledText": {"path": "a.csv"}}}
    spec = read_spec({**raw, "training": {"steps": 1, "precision": precision}})
    facts = Facts((12,), 2, 50, 0)
    built = build(spec, facts)
    with suppress(UnmeasurableError):  # A model that cannot be measured is tried.
        Gauge(spec, facts, cuda=False).passes(2, Precision(precision), checkpointing=False)
    alone = SimpleNamespace(rank=0, size=1, device=torch.device("cpu"))
    engine = Engine(spec, built, built, alone, make_task(spec).loss(facts), None)
    batch = Batch.of(torch.ones(2, 12, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UserError, match=words):
        take_dry_step(built, engine.forward, engine.loss.mean, make_optimizer(spec.optimizer, built), batch)


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), FailureClass.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), FailureClass.INTERNAL),
        (RuntimeError("x INTERNAL ASSERT FAILED at y, please report a bug to PyTorch"), FailureClass.INTERNAL),
        (AttributeError("'Batch' object has no attribute 'inputz'"), FailureClass.INTERNAL),
        (TypeError("mean() got an unexpected keyword argument"), FailureClass.INTERNAL),
        (KeyError("targets"), FailureClass.INTERNAL),
        (AssertionError(), FailureClass.INTERNAL),
    ],
)
def test_a_step_that_fails_for_no_choice_of_the_user_is_not_blamed_on_the_model(error, category):
    def fail(_):
        raise error

    model = nn.Linear(2, 1)
    batch = Batch.of(torch.zeros(2, 2), torch.zeros(2, 1))
    with pytest.raises(type(error)) as raised:
        take_dry_step(model, fail, lambda out, _: out.sum(), torch.optim.SGD(model.parameters(), lr=0.1), batch)
    assert classify(explain(raised.value).exit_code) == category
