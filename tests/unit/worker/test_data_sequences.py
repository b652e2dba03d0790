"""Texts and frames as batches: padded, cut into blocks, numbered."""

import itertools
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainwright.api.spec.preparation import Normalize
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.data import sequences
from trainwright_worker.data.frames import Frames, measure_frames
from trainwright_worker.data.normalization import Normalization
from trainwright_worker.data.ragged import Ragged
from trainwright_worker.data.sequences import Blocks, Tokens, pad, round_up


def test_batches_are_padded_to_a_multiple_of_eight_but_not_beyond_the_longest_sample():
    assert [round_up(length, 100) for length in (1, 8, 9, 97, 100)] == [8, 8, 16, 100, 100]
    filled, mask = pad([np.array([5, 6]), np.array([7, 8, 9])], 3, 1)
    assert filled.tolist() == [[5, 6, 1], [7, 8, 9]]
    assert mask.tolist() == [[True, True, False], [True, True, True]]


def test_texts_of_different_lengths_make_a_batch_with_a_mask():
    ids = Ragged(np.arange(10, dtype=np.uint16), np.array([0, 2, 2 + 5, 10]))
    tokens = Tokens(ids, torch.tensor([2, 0]), torch.tensor([1, 0]), padding=99, max_length=20)
    batch = tokens.take(torch.tensor([0, 1]))
    assert batch.input.tolist() == [[7, 8, 9, 99, 99, 99, 99, 99], [0, 1, 99, 99, 99, 99, 99, 99]]
    assert batch.mask.sum(1).tolist() == [3, 2]
    assert batch.target.tolist() == [1, 0]
    fixed = Tokens(ids, torch.tensor([0]), torch.tensor([0]), padding=0, max_length=20, fixed=True)
    assert fixed.take(torch.tensor([0])).input.shape == (1, 20)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.booleans(), st.data())
def test_texts_in_memory_make_the_batches_that_texts_in_their_file_make(lengths, fixed, data):
    ids = Ragged(np.arange(sum(lengths), dtype=np.uint16), np.array([0, *itertools.accumulate(lengths)]))
    rows = torch.tensor(data.draw(st.permutations(range(len(lengths)))))
    asked = torch.tensor(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8)))

    def take(resident: int) -> Batch:
        with patch.object(sequences, "_RESIDENT_BYTES", resident):
            return Tokens(ids, rows, rows * 2, padding=7, max_length=30, fixed=fixed).take(asked)

    kept, mapped = take(1 << 20), take(0)
    assert torch.equal(kept.input, mapped.input)
    assert torch.equal(kept.mask, mapped.mask)
    assert torch.equal(kept.target, mapped.target)
    assert kept.input.dtype == mapped.input.dtype == torch.int64


@given(st.integers(2, 200), st.integers(1, 30))
def test_blocks_predict_each_token_once_from_the_one_before(total, length):
    blocks = Blocks(np.arange(total, dtype=np.uint16), length)
    assert len(blocks) == (total - 1) // length
    if len(blocks):
        batch = blocks.take(torch.arange(len(blocks)))
        assert batch.target.flatten().tolist() == list(range(1, len(blocks) * length + 1))
        assert torch.equal(batch.input + 1, batch.target)
        assert batch.mask is None


def test_frames_are_scaled_and_their_characters_numbered_from_one():
    frames = Ragged(np.arange(8, dtype=np.float32).reshape(4, 2), np.array([0, 3, 4]))
    texts = Ragged(np.array([ord(c) for c in "abb"], np.int32), np.array([0, 2, 3]))
    scale = Normalization((0.0, 1.0), (2.0, 2.0))
    batch = Frames(frames, texts, torch.arange(2), scale, 3, (ord("a"), ord("b"))).take(torch.tensor([0, 1]))
    assert batch.input.tolist() == [[[0, 0], [1, 1], [2, 2]], [[3, 3], [0, 0], [0, 0]]]
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.target.tolist() == [[1, 2], [2, IGNORED]]


@pytest.mark.parametrize("constant", [-11.5129, 0.1, 1e6 + 0.1])
@pytest.mark.parametrize("spec", [Normalize.STANDARD, Normalize.UNIT])
def test_a_feature_that_never_changes_is_left_at_nothing(constant, spec):
    lengths = [7, 11, 13]
    values = np.random.default_rng(0).normal(5.0, 2.0, (sum(lengths), 2)).astype(np.float32)
    values[:, 1] = constant
    starts = np.cumsum([0, *lengths])
    frames = Frames(Ragged(values, starts), Ragged(values[:, 0], starts), torch.arange(3), Normalization(), 13, ())
    found = measure_frames(frames, spec)
    assert found.deviation[1] == 1
    assert found.mean[1] == pytest.approx(float(np.float32(constant)))
    if spec == Normalize.STANDARD:
        assert found.mean[0] == pytest.approx(values[:, 0].mean(), rel=1e-6)
        assert found.deviation[0] == pytest.approx(values[:, 0].std(), rel=1e-6)
