"""Images whose channels lie together, as GPUs have them, forced upon a CPU: what is saved and what is learnt stay the same."""

import copy
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim import SGD, Adam

from trainwright.api.job import read_spec
from trainwright_worker.batch import Batch
from trainwright_worker.checkpoint.folder import CheckpointFolder
from trainwright_worker.checkpoint.resume import restore
from trainwright_worker.checkpoint.staging import Staging
from trainwright_worker.checkpoint.state import TrainingProgress, gather_state, pack_rank
from trainwright_worker.distributed import parallel
from trainwright_worker.facts import Facts
from trainwright_worker.results.weights import model_of, weights_of
from trainwright_worker.storage import FolderStorage
from trainwright_worker.tasks.table import make_task
from trainwright_worker.training.engine import Engine

ALONE = SimpleNamespace(rank=0, size=1, device=torch.device("cpu"), broadcast_tensors=list)
SPEC = read_spec({"model": {"name": "cnn"}, "dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}})
TOGETHER = torch.channels_last


@pytest.fixture
def turned(monkeypatch):
    """Have CPUs order images as GPUs do."""
    monkeypatch.setattr(parallel, "CHANNELS_LAST", {"cpu"})


def model_like(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


def learn(model, optimizer, steps):
    engine = Engine(SPEC, model, model, ALONE, make_task(SPEC).loss(Facts((3, 8, 8), 4)), None)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(4, 3, 8, 8, generator=generator)
        engine.accumulate(Batch.of(images, torch.arange(4)))
        optimizer.step()
        optimizer.zero_grad()
    return engine


def test_inputs_come_in_the_order_of_the_weights_and_mean_the_same(turned):
    plain = model_like(0).eval()
    model = parallel.parallelize(copy.deepcopy(plain), SPEC, ALONE)
    assert model[0].weight.is_contiguous(memory_format=TOGETHER)
    seen = []
    model[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].is_contiguous(memory_format=TOGETHER)))
    images = Batch.of(torch.randn(2, 3, 8, 8), torch.zeros(2))
    outputs = Engine(SPEC, model, model, ALONE, make_task(SPEC).loss(Facts((3, 8, 8), 4)), None).forward(images)
    assert seen == [True]
    torch.testing.assert_close(outputs, plain(images.input))


def test_a_model_without_images_stays_as_it_is(turned):
    model = parallel.parallelize(nn.Linear(3, 2), SPEC, ALONE)
    assert parallel.order_of(model) == torch.contiguous_format


@pytest.mark.parametrize("make", [lambda weights: Adam(weights, fused=True), lambda weights: SGD(weights, 0.1, 0.9)])
def test_what_is_saved_lies_row_by_row_and_goes_on_in_the_order_of_the_device(turned, tmp_path, make):
    model = parallel.parallelize(model_like(0), SPEC, ALONE)
    optimizer = make(model.parameters())
    learn(model, optimizer, 2)
    progress = TrainingProgress(2, torch.zeros((), dtype=torch.float64))
    folder = CheckpointFolder(FolderStorage(str(tmp_path)), 5)
    folder.write(Staging().copy(gather_state(model, optimizer, {}, [pack_rank(progress)])), progress.to_facts())
    saved = safetensors.torch.load_file(tmp_path / "checkpoints" / "step-00000002" / "model.safetensors")
    assert torch.equal(saved["0.weight"], model[0].weight)

    other = parallel.parallelize(model_like(1), SPEC, ALONE)
    again = make(other.parameters())
    restore(folder, folder.find_newest()[0], other, again, TrainingProgress(0, progress.loss_sum.clone()), ALONE)
    entries = [value for value in again.state[other[0].weight].values() if torch.is_tensor(value) and value.dim() > 1]
    assert entries
    assert all(entry.stride() == other[0].weight.stride() for entry in entries)
    learn(model, optimizer, 2)
    learn(other, again, 2)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())

    placement = SimpleNamespace(leads=True)
    run = SimpleNamespace(learner=SimpleNamespace(model=model), placement=placement, spec=SPEC, group=ALONE)
    result = model_of(run, weights_of(run))
    assert result[0].weight.is_contiguous()
    assert torch.equal(result[0].weight, model[0].weight)
