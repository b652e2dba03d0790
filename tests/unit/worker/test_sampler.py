"""The order of samples: each once per epoch, whatever the ranks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright_worker.data.sampler import WINDOW_BLOCKS, Sampler

CPU = torch.device("cpu")


@st.composite
def samplers(draw):
    samples = draw(st.integers(4, 300))
    size = draw(st.sampled_from([1, 2, 3, 5]))
    batch = draw(st.integers(1, samples))
    blocks = None
    if draw(st.booleans()):
        blocks = torch.tensor(draw(st.lists(st.integers(0, 40), min_size=samples, max_size=samples)))
    seed = draw(st.integers(0, 2**32 - 1))
    return [Sampler(samples, batch, rank, size, seed, blocks) for rank in range(size)]


@settings(max_examples=150)
@given(samplers(), st.integers(0, 3))
def test_an_epoch_shows_every_sample_once_whatever_the_ranks_and_goes_on_where_it_was(ranks, epoch):
    sampler = ranks[0]
    first = epoch * sampler.steps_per_epoch
    shares = [list(rank.shares(first, CPU)) for rank in ranks]
    told = [[rank.share(first + step) for step in range(rank.steps_per_epoch)] for rank in ranks]
    counting = [
        indices if share is None else indices[: share.own]
        for rank, said in zip(shares, told, strict=True)
        for indices, share in zip(rank, said, strict=True)
    ]
    assert sorted(torch.cat(counting).tolist()) == list(range(sampler.samples))
    middle = first + sampler.steps_per_epoch // 2
    again = Sampler(sampler.samples, sampler.batch, 0, sampler.size, sampler.seed, sampler.blocks)
    for late, early in zip(again.shares(middle, CPU), shares[0][middle - first :], strict=True):
        assert torch.equal(late, early)


@pytest.mark.parametrize("blocks", [None, torch.arange(100) // 7])
def test_a_step_sees_the_same_samples_whatever_the_number_of_ranks(blocks):
    alone = list(Sampler(100, 12, 0, 1, 5, blocks).shares(0, CPU))
    pairs = zip(*(Sampler(100, 12, rank, 2, 5, blocks).shares(0, CPU) for rank in range(2)), strict=True)
    for whole, parts in zip(alone, pairs, strict=True):
        assert sorted(whole.tolist()) == sorted(torch.cat(parts).tolist())


def test_blocks_are_read_window_by_window_and_each_rank_takes_what_lies_together():
    blocks = torch.arange(4000) // 20
    ranks = [Sampler(4000, 200, rank, 2, 3, blocks) for rank in range(2)]
    order = ranks[0].order(0)
    for window in order.split(20 * WINDOW_BLOCKS):
        assert len(blocks[window].unique()) <= WINDOW_BLOCKS
    assert (blocks[order][1:] != blocks[order][:-1]).float().mean() > 0.9, "samples of a window are mixed"
    assert not torch.equal(order, ranks[0].order(1))
    first, second = (next(rank.shares(0, CPU)) for rank in ranks)
    assert blocks[first].max() <= blocks[second].min()
