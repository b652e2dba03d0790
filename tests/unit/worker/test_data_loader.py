"""The loader: from any step on, with threads that may fail, towards a GPU."""

import pytest
import torch

from trainwright.api.spec.preparation import AugmentationSpec
from trainwright_worker.batch import Batch
from trainwright_worker.data.loader import Loader, read_ahead
from trainwright_worker.data.normalization import Normalization
from trainwright_worker.data.sampler import Sampler
from trainwright_worker.data.samples import AugmentedSamples, Samples
from trainwright_worker.errors import DataError

CPU = torch.device("cpu")


@pytest.mark.parametrize("threads", [1, 3])
def test_a_loader_that_begins_at_a_step_yields_what_one_that_came_there_would(threads):
    images = Samples(torch.rand(20, 1, 8, 8), torch.arange(20))
    spec = AugmentationSpec.model_validate({"randomCrop": {"padding": 2}})
    split = AugmentedSamples(images, Normalization(), spec, 7, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        loader = Loader(split, Sampler(20, 6, 0, 1, 0), CPU)
        straight = [batch for batch, _ in zip(loader.batches(0), range(10), strict=False)]
        resumed = [batch for batch, _ in zip(loader.batches(6), range(4), strict=False)]
    finally:
        torch.set_num_threads(before)
    assert [len(batch) for batch in straight[:4]] == [6, 6, 6, 2]
    for early, late in zip(straight[6:], resumed, strict=True):
        assert torch.equal(early.input, late.input)
        assert torch.equal(early.target, late.target)


def test_a_failing_reader_ends_the_loop_with_its_error():
    class Broken(AugmentedSamples):
        def take(self, indices, epoch=None):  # noqa: ARG002
            raise DataError("broken")

    split = Broken(Samples(torch.rand(8, 1, 4, 4), torch.arange(8)), Normalization(), AugmentationSpec(), 0, 1)
    with pytest.raises(DataError, match="broken"):
        next(Loader(split, Sampler(8, 4, 0, 1, 0), CPU).batches(0))


@pytest.mark.parametrize(("place", "pinned"), [("cpu", 2), ("meta", 0)])
def test_samples_in_memory_are_pinned_on_their_way_to_a_gpu_unless_they_are_on_a_device(place, pinned, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: calls.append(tensor) or tensor)
    monkeypatch.setattr(Batch, "to", lambda batch, _: batch)
    split = Samples(torch.zeros(4, 3, device=place), torch.zeros(4, device=place))
    requests = iter([(torch.arange(2, device=place), None)])
    assert len(next(read_ahead(split, requests, torch.device("cuda")))) == 2
    assert len(calls) == pinned
