import copy
import json

import pytest
import torch
from torch import nn

from trainwright.api.job import read_spec
from trainwright.api.spec import OptimizerSpec, ScheduleSpec
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build
from trainwright_worker.optim.muon import hidden_matrices
from trainwright_worker.optim.optimizer import make_optimizer
from trainwright_worker.optim.schedule import find_fault, is_constant, learning_rate

OPTIMIZERS = {
    "sgd": '{"name": "sgd", "learningRate": 0.1, "momentum": 0.9, "nesterov": true, "weightDecay": 0.01}',
    "plain sgd": '{"name": "sgd", "learningRate": 0.1}',
    "adam": '{"name": "adam", "learningRate": 0.01}',
    "adamw": '{"name": "adamw", "learningRate": 0.01, "weightDecay": 0.1, "decayScope": "matrices"}',
    "adafactor": '{"name": "adafactor", "learningRate": 0.05}',
    "lamb": '{"name": "lamb", "learningRate": 0.02, "weightDecay": 0.01}',
    "lars": '{"name": "lars", "learningRate": 2, "momentum": 0.9, "nesterov": true, "weightDecay": 0.001}',
    "muon": '{"name": "muon", "learningRate": 0.01, "weightDecay": 0.01}',
}


def spec_of(name):
    return OptimizerSpec.model_validate_json(OPTIMIZERS[name])


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def step(model, optimizer, seed):
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
    loss = nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_and_goes_on_to_the_bit_from_what_it_had_gathered(name):
    model = model_of()
    optimizer = make_optimizer(spec_of(name), model)
    losses = [step(model, optimizer, 7) for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]
    twin = copy.deepcopy(model)
    other = make_optimizer(spec_of(name), twin)
    tensors = {
        key: {k: v.clone() for k, v in entries.items()} for key, entries in optimizer.state_dict()["state"].items()
    }
    other.load_state_dict({"state": tensors, "param_groups": other.state_dict()["param_groups"]})
    for seed in range(5):
        assert step(model, optimizer, seed) == step(twin, other, seed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("sgd", lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, fused=True)),
        ("plain sgd", lambda w: torch.optim.SGD(w, lr=0.1, fused=True)),
        ("adam", lambda w: torch.optim.Adam(w, lr=0.01, fused=True)),
        ("adafactor", lambda w: torch.optim.Adafactor(w, lr=0.05, weight_decay=0)),
    ],
)
def test_optimizers_are_torchs_own_to_the_bit(name, theirs):
    ours, plain = model_of(), model_of()
    made, expected = make_optimizer(spec_of(name), ours), theirs(plain.parameters())
    assert [step(ours, made, seed) for seed in range(9)] == [step(plain, expected, seed) for seed in range(9)]


def test_settings_reach_the_optimizer():
    raw = '{"name": "adamw", "betas": [0.8, 0.9], "epsilon": 0.001, "weightDecay": 0.1}'
    group = make_optimizer(OptimizerSpec.model_validate_json(raw), model_of()).param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"], group["lr"]) == ((0.8, 0.9), 0.001, 0.1, 0.001)


def test_biases_and_norms_are_spared_where_the_spec_or_the_custom_of_the_optimizer_says_so():
    def decays(raw):
        groups = make_optimizer(OptimizerSpec.model_validate_json(raw), model_of()).param_groups
        return sorted((group["weight_decay"], len(group["params"])) for group in groups)

    assert decays('{"name": "adamw", "weightDecay": 0.1}') == [(0.1, 8)]
    assert decays('{"name": "adamw", "weightDecay": 0.1, "decayScope": "matrices"}') == [(0.0, 5), (0.1, 3)]
    assert decays('{"name": "lamb", "weightDecay": 0.1}') == [(0.0, 5), (0.1, 3)]
    assert decays('{"name": "lamb", "weightDecay": 0.1, "decayScope": "all"}') == [(0.1, 8)]
    assert decays('{"name": "muon", "weightDecay": 0.1}') == [(0.0, 5), (0.1, 1), (0.1, 2)]


def test_lamb_measures_its_first_step_by_the_weight():
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    model = nn.Module()
    model.register_parameter("weight", weight)
    optimizer = make_optimizer(OptimizerSpec.model_validate_json('{"name": "lamb", "learningRate": 0.1}'), model)
    weight.grad = torch.tensor([[1.0, -2.0]])
    optimizer.step()
    # Adam's first step is the sign of the gradient, of length sqrt(2); the weight has length 5.
    expected = torch.tensor([[3.0 - 0.1 * 5 / 2**0.5, 4.0 + 0.1 * 5 / 2**0.5]])
    assert torch.allclose(weight, expected, atol=1e-5)


def test_lars_measures_its_step_by_the_weight():
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    model = nn.Module()
    model.register_parameter("weight", weight)
    raw = '{"name": "lars", "learningRate": 0.1, "weightDecay": 0.1}'
    optimizer = make_optimizer(OptimizerSpec.model_validate_json(raw), model)
    weight.grad = torch.tensor([[0.6, 0.8]])
    optimizer.step()
    # (gradient + decay x weight) x 0.001 x |weight| / (|gradient| + decay x |weight|), times the rate.
    step = 0.1 * (torch.tensor([[0.6, 0.8]]) + 0.1 * torch.tensor([[3.0, 4.0]])) * 0.001 * 5 / (1 + 0.1 * 5)
    assert torch.allclose(weight, torch.tensor([[3.0, 4.0]]) - step, atol=1e-7)


def test_muon_takes_the_matrices_between_embedding_and_output():
    class Model(nn.Module):
        def __init__(self, *, tied):
            super().__init__()
            self.tokens = nn.Embedding(9, 8)
            self.inner = nn.Linear(8, 8)
            self.head = nn.Linear(8, 9, bias=False)
            if tied:
                self.head.weight = self.tokens.weight

    for tied in (False, True):
        model = Model(tied=tied)
        assert hidden_matrices(model) == {model.inner.weight}
    optimizer = make_optimizer(spec_of("muon"), model)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert set(optimizer.state[model.inner.weight]) == {"momentum_buffer"}
    assert set(optimizer.state[model.tokens.weight]) == {"step", "exp_avg", "exp_avg_sq"}


def test_muon_takes_every_matrix_of_a_model_whose_head_is_its_embedding():
    args = {"dimension": 16, "heads": 2, "layers": 2}
    text = {"text": {"path": "c"}, "tokenizer": {"maxLength": 12}}
    spec = read_spec(
        {"task": "language-modeling", "model": {"name": "gpt", "args": args}, "dataset": text, "training": {"steps": 1}}
    )
    model = build(spec, Facts((12,), 50, 50, 0))
    spared = {name for name, weight in model.named_parameters() if weight.dim() == 2} - {
        name for name, weight in model.named_parameters() if weight in hidden_matrices(model)
    }
    embeddings = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    assert spared == embeddings


def test_a_skipped_first_step_leaves_momentum_as_it_was():
    model = model_of()
    before = [weight.clone() for weight in model.parameters()]
    optimizer = make_optimizer(spec_of("sgd"), model)
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, float("nan"))
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(not entries["momentum_buffer"].any() for entries in optimizer.state.values())


def rates(schedule, total=10, base=1.0):
    spec = ScheduleSpec.model_validate_json(schedule)
    return [round(learning_rate(base, spec, number, total), 4) for number in range(total)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("{}", [1] * 10),
        ('{"warmupSteps": 4}', [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
        ('{"name": "linear", "finalFraction": 0.1}', [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        ('{"name": "linear", "warmupSteps": 5}', [0.2, 0.4, 0.6, 0.8, 1, 1, 0.75, 0.5, 0.25, 0]),
        ('{"name": "cosine", "warmupSteps": 5}', [0.2, 0.4, 0.6, 0.8, 1, 1, 0.8536, 0.5, 0.1464, 0]),
        ('{"name": "step", "stepEverySteps": 4, "gamma": 0.5}', [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]),
        ('{"name": "step", "warmupSteps": 2, "stepEverySteps": 4}', [0.5, 1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1]),
        ('{"name": "one-cycle"}', [0.04, 0.52, 1, 0.9505, 0.8117, 0.6113, 0.3887, 0.1883, 0.0495, 0]),
        ('{"name": "one-cycle", "warmupSteps": 1, "finalFraction": 0.5}', [1, 0.9849, 0.9415, 0.875, 0.7934, 0.7066]),
    ],
)
def test_schedules(schedule, expected):
    assert rates(schedule)[: len(expected)] == expected


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "step", "one-cycle"])
def test_a_run_of_one_step_has_the_full_rate(name):
    assert rates(json.dumps({"name": name, **({"stepEverySteps": 1} if name == "step" else {})}), total=1) == [1]


def test_one_cycle_is_torchs_own():
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.8, total_steps=50, final_div_factor=1e9)
    spec = ScheduleSpec.model_validate_json('{"name": "one-cycle"}')
    for number in range(50):
        assert learning_rate(0.8, spec, number, 50) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        theirs.step()


def test_a_warm_up_that_is_longer_than_the_run_is_told():
    spec = ScheduleSpec(warmup_steps=10)
    assert find_fault(spec, 11) is None
    assert "warmupSteps: 10, but the run has only 10 step(s)" in find_fault(spec, 10)
    assert find_fault(ScheduleSpec(), 0) is None


def test_which_schedules_never_change_the_rate():
    assert is_constant(ScheduleSpec())
    assert not is_constant(ScheduleSpec(warmup_steps=1))
