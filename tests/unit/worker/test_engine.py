import copy
import math
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainwright.api.job import read_spec
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.data.sampler import Sampler
from trainwright_worker.facts import Facts
from trainwright_worker.tasks.losses import Loss
from trainwright_worker.tasks.table import make_task
from trainwright_worker.training.engine import Engine
from trainwright_worker.training.update import Update

CPU = torch.device("cpu")
FACTS = Facts((4,), 3)
LANGUAGE = {"task": "language-modeling", "dataset": {"text": {"path": "a"}}}
REGRESSION = {"task": "regression", "dataset": {"builtin": {"name": "diabetes"}}}
TRANSCRIPTION = {"task": "transcription", "dataset": {"labeledSequences": {"path": "a"}}}


class OneRank:
    size, rank, device = 1, 0, CPU


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


def engine_of(model, spec, scaler=None):
    return Engine(spec, model, model, OneRank, make_task(spec).loss(FACTS), scaler)


def update_of(model, spec, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    return Update(spec, model, optimizer, 100, torch.device("cpu")), optimizer


def gradients(model, spec, batch):
    model = copy.deepcopy(model)
    loss = engine_of(model, spec).accumulate(batch)
    return float(loss), [weight.grad for weight in model.parameters()]


def features(count):
    generator = torch.Generator().manual_seed(count)
    return Batch.of(torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator))


def numbers(count):
    return Batch.of(features(count).input, torch.randn(count, 2, generator=torch.Generator().manual_seed(count)))


def frames(count):
    generator = torch.Generator().manual_seed(count)
    targets = torch.randint(1, 3, (count, 3), generator=generator)
    return Batch.of(torch.randn(count, 9, 4, generator=generator), targets)


def texts(count):
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randint(7, (count, 6), generator=generator)
    targets = torch.randint(7, (count, 6), generator=generator)
    mask = torch.arange(6) < torch.randint(1, 7, (count, 1), generator=generator)
    mask[0] = False  # A part in which nothing counts at all.
    return Batch.of(inputs, targets.where(mask, IGNORED), mask)


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
    counts = [int((half != IGNORED).sum()) for half in batch.target.split(4)]
    assert counts[0] != counts[1]
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.fill_(sum(counts)))
    losses, parts = [], []
    for rank in range(2):
        twin, half = copy.deepcopy(model), slice(4 * rank, 4 * rank + 4)
        group = SimpleNamespace(size=2, rank=rank, device=torch.device("cpu"))
        engine = Engine(spec, twin, twin, group, make_task(spec).loss(FACTS), None)
        losses.append(float(engine.accumulate(Batch.of(batch.input[half], batch.target[half], batch.mask[half]))))
        parts.append([weight.grad for weight in twin.parameters()])
    assert sum(losses) / 2 == pytest.approx(loss, rel=1e-5)
    for expected, one, two in zip(whole, *parts, strict=True):
        assert torch.allclose(expected, (one + two) / 2, atol=1e-6)


@st.composite
def shared_steps(draw):
    """Draw a model, a spec, a batch, and the indices and the share of each rank."""
    count, size = draw(st.integers(2, 12)), draw(st.integers(2, 5))
    micro = draw(st.sampled_from([{}, {"microBatchSize": 1}, {"microBatchSize": 2}, {"microBatchSize": 5}]))
    penalised = draw(st.sampled_from([{}, {"regularization": {"l1": 0.01, "l2": 0.1}}]))
    model, batch, fields = draw(
        st.sampled_from([
            (nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), features, {}),
            (nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), numbers, REGRESSION),
            (Tokens(), texts, LANGUAGE),
            (nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), frames, TRANSCRIPTION),
        ])
    )  # fmt: skip
    spec = spec_of(training=micro, **fields, **penalised)
    ranks = [Sampler(count, count, rank, size, 0) for rank in range(size)]
    return model, spec, batch(count), [(next(rank.shares(0, CPU)), rank.share(0)) for rank in ranks]


@settings(max_examples=40)
@given(shared_steps())
def test_the_mean_of_uneven_ranks_gradients_is_the_gradient_of_the_batch(step):
    model, spec, batch, ranks = step
    loss, whole = gradients(model, spec, batch)
    tokens = int((batch.target != IGNORED).sum())
    losses, parts, passes_made = [], [], set()
    for rank, (indices, share) in enumerate(ranks):
        twin = copy.deepcopy(model)
        group = SimpleNamespace(size=len(ranks), rank=rank, device=CPU)
        engine = Engine(spec, twin, twin, group, make_task(spec).loss(FACTS), None)
        made = []
        twin.register_forward_pre_hook(lambda _, args, made=made: made.append(len(args[0])))
        mine = batch.select(indices)
        with patch.object(torch.distributed, "all_reduce", lambda tensor: tensor.fill_(tokens)):
            losses.append(float(engine.accumulate(mine, share)))
        parts.append([weight.grad for weight in twin.parameters()])
        passes_made.add(len(made))
        assert max(made) <= (spec.training.micro_batch_size or len(batch))
    assert len(passes_made) == 1, "sharded models compute together"
    assert sum(losses) / len(ranks) == pytest.approx(loss, rel=1e-4, abs=1e-6)
    for expected, *found in zip(whole, *parts, strict=True):
        assert torch.allclose(expected, torch.stack(found).mean(0), atol=1e-5)


@pytest.mark.parametrize("micro", [None, 4])
def test_a_sample_that_is_left_over_is_normalized_by_what_is_known(micro):
    spec = spec_of(training={"globalBatchSize": 8, **({"microBatchSize": micro} if micro else {})})
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    engine = engine_of(model, spec)
    engine.accumulate(features(8))
    before = copy.deepcopy(model[1].state_dict())
    engine.accumulate(features(1))
    assert all(torch.equal(value, before[name]) for name, value in model[1].state_dict().items())
    assert model[1].training
    engine.accumulate(features(9 if micro else 8))
    assert not torch.equal(model[1].running_mean, before["running_mean"])


def test_samples_that_always_pass_alone_are_nothing_to_normalize():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        engine_of(model, spec_of(training={"globalBatchSize": 1})).accumulate(features(1))


@pytest.mark.parametrize("micro", [None, 1])
def test_penalties_weigh_the_same_on_every_rank(micro):
    """Of sharded weights each rank keeps its own part of the penalty's gradient: there is no mean over ranks."""
    spec = spec_of(regularization={"l2": 0.5}, training={"microBatchSize": micro})
    for rank in range(2):
        model = nn.Linear(4, 3)
        engine = Engine(
            spec, model, model, SimpleNamespace(size=2, rank=rank, device=CPU), Loss(lambda out, _: 0 * out.sum()), None
        )
        sampler = Sampler(3, 3, rank, 2, 0)
        indices = next(sampler.shares(0, CPU))
        engine.accumulate(features(3).select(indices), sampler.share(0))
        assert torch.allclose(model.weight.grad, 0.5 * model.weight)


def test_equal_shares_are_weighted_without_asking_the_other_ranks():
    model, batch = nn.Linear(4, 3), features(6)
    assert Sampler(12, 12, 1, 2, 0).share(0) is None
    engine = engine_of(model, spec_of())
    with patch.object(torch.distributed, "all_reduce", side_effect=AssertionError):
        loss = engine.accumulate(batch)
    expected = nn.functional.cross_entropy(model(batch.input), batch.target)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_fp16_scales_the_loss_and_gives_gradients_back_in_their_own_size():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    spec = spec_of(training={"precision": "fp16", "gradientClipping": 0.001})
    update, optimizer = update_of(model, spec)
    engine = engine_of(model, spec, update.scaler)
    _, plain = gradients(model, spec_of(), features(8))
    engine.accumulate(features(8))
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
    engine = engine_of(model, spec, update.scaler)
    update.mark_valid()

    def learn(batch, number):
        loss = engine.accumulate(batch)
        update.take(number, measured=False)
        return float(update.guard.count(loss))

    assert learn(features(8), 0) > 0
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    bad = features(8)
    bad.input[3, 1] = math.inf
    assert learn(bad, 1) == 0
    now = (model.state_dict(), optimizer.state_dict()["state"])
    assert all(torch.equal(now[0][name], value) for name, value in state[0].items())
    for index, entries in state[1].items():
        assert all(torch.equal(now[1][index][key], value) for key, value in entries.items())
    assert update.guard.read() == (1, 1)
    assert learn(features(8), 2) > 0
    assert update.guard.read() == (1, 1)
    assert not torch.equal(model.state_dict()["0.weight"], state[0]["0.weight"])


@pytest.mark.parametrize("policy", ["stop", "rollback"])
def test_under_fp16_a_loss_that_is_no_number_is_left_to_the_policy_and_a_gradient_to_the_scale(policy):
    spec = spec_of(training={"precision": "fp16"}, health={"nonFinite": policy})
    update, _ = update_of(nn.Linear(2, 1), spec)
    nan, loss = torch.tensor(math.nan), torch.tensor(2.0)
    update.guard.watch(nan)
    assert update.guard.count(loss) == 0
    assert update.guard.count(nan).isnan()
    update.guard.watch(torch.tensor(1.0))
    assert update.guard.count(loss) == 2
    assert update.guard.count(nan).isnan()


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


def test_running_statistics_are_averaged_with_the_weights_and_saved_with_them():
    model = nn.BatchNorm1d(2)
    spec = spec_of(training={"ema": {"decay": 0.5}})
    update, _ = update_of(model, spec)
    expected = torch.zeros(2)
    for number in range(3):
        model.running_mean += 1
        update.average.update(number)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * model.running_mean
    with update.average.applied():
        torch.testing.assert_close(model.running_mean, expected)
    assert model.running_mean.tolist() == [3, 3]
    other = nn.BatchNorm1d(2)
    again, _ = update_of(other, spec)
    again.restore(update.extras())
    with again.average.applied():
        torch.testing.assert_close(other.running_mean, expected)


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
