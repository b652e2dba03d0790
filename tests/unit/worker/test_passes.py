import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trainwright.api.job import read_spec
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.training.losses import make_loss
from trainwright_worker.training.passes import Passes
from trainwright_worker.training.update import Update


class OneRank:
    size, rank, device = 1, 0, torch.device("cpu")


class Tokens(nn.Module):
    """A language model that may look at its mask."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(7, 5)
        self.head = nn.Linear(5, 7)

    def forward(self, inputs, mask=None):
        hidden = self.tokens(inputs)
        return self.head(hidden if mask is None else hidden * mask[..., None])


def spec_of(**changes):
    return read_spec(
        {
            "model": {"name": "mlp"},
            "dataset": {"builtin": {"name": "iris"}},
            "training": {"epochs": 1, **changes.pop("training", {})},
            **changes,
        }
    )


def passes_of(model, spec, scaler=None):
    return Passes(spec, model, model, OneRank, make_loss(spec.loss_name, spec.loss), scaler)


def update_of(model, spec, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    return Update(spec, model, optimizer, 100, torch.device("cpu")), optimizer


def gradients(model, spec, batch):
    model = copy.deepcopy(model)
    loss = passes_of(model, spec).learn(batch)
    return float(loss), [weight.grad for weight in model.parameters()]


def features(count):
    generator = torch.Generator().manual_seed(count)
    return Batch(torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator))


def texts(count):
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randint(7, (count, 6), generator=generator)
    targets = torch.randint(7, (count, 6), generator=generator)
    mask = torch.arange(6) < torch.randint(1, 7, (count, 1), generator=generator)
    mask[0] = False  # A part in which nothing counts at all.
    return Batch(inputs, targets.where(mask, IGNORED), mask)


@pytest.mark.parametrize("count", [8, 7, 3])
@pytest.mark.parametrize("micro", [1, 2, 5])
def test_gradients_of_parts_are_those_of_the_whole(count, micro):
    torch.manual_seed(0)
    penalised = {"regularization": {"l1": 0.01, "l2": 0.1}}
    language = {"task": "language-modeling", "dataset": {"text": {"path": "a"}}}
    cases = [
        (nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), features(count), penalised),
        (Tokens(), texts(count), language),
    ]
    for model, batch, changes in cases:
        loss, whole = gradients(model, spec_of(**changes), batch)
        again, parts = gradients(model, spec_of(training={"microBatchSize": micro}, **changes), batch)
        assert again == pytest.approx(loss, rel=1e-5)
        for expected, found in zip(whole, parts, strict=True):
            assert torch.allclose(expected, found, atol=1e-6)


def test_ranks_with_more_tokens_have_more_weight(monkeypatch):
    torch.manual_seed(0)
    model, batch = Tokens(), texts(8)
    spec = spec_of(task="language-modeling", dataset={"text": {"path": "a"}}, training={"microBatchSize": 3})
    loss, whole = gradients(model, spec, batch)
    counts = [int((half != IGNORED).sum()) for half in batch.targets.split(4)]
    assert counts[0] != counts[1]
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.fill_(sum(counts)))
    losses, parts = [], []
    for rank in range(2):
        twin, half = copy.deepcopy(model), slice(4 * rank, 4 * rank + 4)
        group = SimpleNamespace(size=2, rank=rank, device=torch.device("cpu"))
        passes = Passes(spec, twin, twin, group, make_loss(spec.loss_name), None)
        losses.append(float(passes.learn(Batch(batch.inputs[half], batch.targets[half], batch.mask[half]))))
        parts.append([weight.grad for weight in twin.parameters()])
    assert sum(losses) / 2 == pytest.approx(loss, rel=1e-5)
    for expected, one, two in zip(whole, *parts, strict=True):
        assert torch.allclose(expected, (one + two) / 2, atol=1e-6)


def test_fp16_scales_the_loss_and_gives_gradients_back_in_their_own_size():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    spec = spec_of(training={"precision": "fp16", "gradientClipping": 0.001})
    update, optimizer = update_of(model, spec)
    passes = passes_of(model, spec, update.scaler)
    _, plain = gradients(model, spec_of(), features(8))
    passes.learn(features(8))
    assert torch.allclose(model.weight.grad / update.scaler.get_scale(), plain[0], atol=1e-3)
    norm = update.take(0, measured=False)
    assert float(norm) == pytest.approx(float(torch.cat([grad.flatten() for grad in plain]).norm()), rel=0.01)
    buffers = torch.cat([optimizer.state[weight]["momentum_buffer"].flatten() for weight in model.parameters()])
    assert float(buffers.norm()) == pytest.approx(0.001, rel=0.01)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adafactor", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_that_is_not_finite_leaves_no_trace_but_its_count(kind, precision):
    from trainwright_worker.optim.optimizer import make_optimizer  # noqa: PLC0415

    torch.manual_seed(0)
    spec = spec_of(
        training={"precision": precision}, health={"nonFinite": "skip"}, optimizer={"name": kind, "weightDecay": 0.1}
    )
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    update, optimizer = update_of(model, spec, make_optimizer(spec.optimizer, model))
    passes = passes_of(model, spec, update.scaler)
    update.settle()

    def learn(batch, number):
        loss = passes.learn(batch)
        update.take(number, measured=False)
        return float(update.guard.count(loss))

    assert learn(features(8), 0) > 0
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    bad = features(8)
    bad.inputs[3, 1] = math.inf
    assert learn(bad, 1) == 0
    now = (model.state_dict(), optimizer.state_dict()["state"])
    assert all(torch.equal(now[0][name], value) for name, value in state[0].items())
    for index, entries in state[1].items():
        assert all(torch.equal(now[1][index][key], value) for key, value in entries.items())
    assert update.guard.read() == (1, 1)
    assert learn(features(8), 2) > 0
    assert update.guard.read() == (1, 1)
    assert not torch.equal(model.state_dict()["0.weight"], state[0]["0.weight"])


def test_averages_follow_the_formula_and_come_back_from_a_checkpoint():
    model = nn.Linear(2, 1)
    spec = spec_of(training={"ema": {"decay": 0.5}, "precision": "fp16"}, health={"nonFinite": "skip"})
    update, _ = update_of(model, spec)
    expected = model.weight.detach().clone()
    for number in range(3):
        model.weight.data += 1
        update.average.update(number)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    own = model.weight.detach().clone()
    with update.average.applied():
        assert torch.allclose(model.weight, expected)
    assert torch.equal(model.weight, own)
    update.guard.watch(torch.tensor(math.nan))
    update.scaler.load_state_dict(update.scaler.state_dict() | {"scale": 128.0, "_growth_tracker": 5})
    saved = {name: value.clone() for name, value in update.extras().items()}
    other, _ = update_of(nn.Linear(2, 1), spec)
    other.restore(saved)
    assert {name: value.tolist() for name, value in other.extras().items()} == {
        name: value.tolist() for name, value in saved.items()
    }
    assert (saved["scaler.scale"].item(), saved["scaler.growth"].item()) == (128, 5)


def test_clipping_and_the_rate_of_the_schedule():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    spec = spec_of(training={"gradientClipping": 0.5}, schedule={"name": "linear"}, optimizer={"learningRate": 0.2})
    optimizer = torch.optim.SGD(model.parameters(), lr=9.0)
    update = Update(spec, model, optimizer, 3, torch.device("cpu"))
    for number, total in ((0, 0.1), (1, 0.15), (2, 0.15)):
        model.weight.grad = torch.tensor([[-4.0]])
        assert update.take(number, measured=False) == 4
        assert model.weight.item() == pytest.approx(total)
