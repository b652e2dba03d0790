import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainwright.api.spec.dataset import Normalize, SplitSpec
from trainwright_worker.data import normalization
from trainwright_worker.data.normalization import Normalization, measure_samples
from trainwright_worker.data.sampler import Sampler
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.splits import split
from trainwright_worker.data.table import Table
from trainwright_worker.errors import DataError, UserError

CPU = torch.device("cpu")


def table_of(count, test=None):
    inputs = torch.arange(count, dtype=torch.float32).unsqueeze(1)
    return Table(Samples(inputs, torch.zeros(count, dtype=torch.int64)), ("a",), test)


def test_splits_share_all_samples_without_overlap_and_repeat_with_the_seed():
    first, again, other = (split(table_of(100), SplitSpec(validation=0.2, test=0.1), seed) for seed in (1, 1, 2))
    parts = [first.train.inputs, first.validation.inputs, first.test.inputs]
    assert [len(part) for part in parts] == [70, 20, 10]
    assert sorted(torch.cat(parts).flatten().tolist()) == list(range(100))
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.inputs, other.train.inputs)


@given(
    st.lists(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3]), min_size=4, max_size=60),
    st.sampled_from([0, 0.05, 0.1, 0.3]),
    st.sampled_from([0, 0.05, 0.2]),
    st.integers(0, 3),
)
def test_each_split_has_its_share_of_each_class(classes, validation, test, seed):
    total, spec = len(classes), SplitSpec(validation=validation, test=test)
    data = Table(Samples(torch.arange(total)[:, None], torch.tensor(classes)), tuple("abcd"))
    found = split(data, spec, seed)
    parts = [part for part in (found.train, found.validation, found.test) if part is not None]
    sizes = [max(1, round(share * total)) for share in (validation, test) if share]
    assert [len(part) for part in parts] == [total - sum(sizes), *sizes]
    assert sorted(torch.cat([part.inputs for part in parts]).flatten().tolist()) == list(range(total))
    assert torch.equal(split(data, spec, seed).train.inputs, found.train.inputs)
    large = {name for name in range(4) if classes.count(name) >= len(parts)}
    if min(map(len, parts)) >= len(large) and len(found.train) >= len(set(classes)):
        assert all(large <= set(part.targets.tolist()) for part in parts)
    if len(found.train) >= len(set(classes)):
        assert set(found.train.targets.tolist()) == set(classes)


def test_the_classes_that_a_split_lacks_are_told():
    data = Table(Samples(torch.arange(10)[:, None], torch.tensor([0] * 8 + [1, 2])), ("a", "b", "c"))
    notes = split(data, SplitSpec(validation=0.2, test=0), 0).notes
    assert notes == ("spec.dataset: the validation split lacks 2 of 3 classes: b, c",)


def test_a_small_fraction_still_gets_a_sample_and_none_gets_none():
    splits = split(table_of(5), SplitSpec(validation=0.01, test=0), 0)
    assert len(splits.validation) == 1
    assert splits.test is None


def test_a_test_file_is_the_test_split():
    own = table_of(3).samples
    splits = split(table_of(10, test=own), SplitSpec(validation=0, test=0.5), 0)
    assert splits.test is own
    assert len(splits.train) == 10


def test_splits_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(DataError, match="of 2 samples, 1 go to validation and 1 to test"):
        split(table_of(2), SplitSpec(validation=0.1, test=0.1), 0)


def measure(samples, spec):
    return measure_samples(samples.inputs, samples.targets, spec)


def test_normalization_is_measured_per_feature_and_survives_json():
    inputs = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    samples = Samples(inputs, torch.tensor([[10.0], [30.0]]))
    found = Normalization.from_json(measure(samples, Normalize.STANDARD).to_json())
    scaled = samples.scaled(found)
    assert scaled.inputs.tolist() == [[-1, 0], [1, 0]], "a constant column becomes 0"
    assert scaled.targets.tolist() == [[-1], [1]]
    assert (found.target_mean, found.target_deviation) == ((20,), (10,))


def test_numbers_that_only_64_bits_tell_apart_are_scaled_before_they_are_rounded():
    seconds = 1_700_000_000 + torch.arange(4.0, dtype=torch.float64)[:, None]
    samples = Samples(torch.cat([seconds, 1000 * seconds], 1), seconds)
    found = measure(samples, Normalize.STANDARD)
    expected = (torch.arange(4.0) - 1.5)[:, None] / 1.25**0.5
    scaled = samples.scaled(found)
    assert (scaled.inputs.dtype, scaled.targets.dtype) == (torch.float32, torch.float32)
    assert torch.allclose(scaled.inputs, expected.expand(-1, 2))
    assert torch.allclose(scaled.targets, expected)
    assert samples.scaled(measure(samples, Normalize.NONE)).inputs.dtype == torch.float32


@pytest.mark.parametrize("spec", [Normalize.STANDARD, Normalize.UNIT])
@pytest.mark.parametrize("noise", [0, 1e-17])
def test_a_column_that_changes_by_nothing_but_rounding_is_left_at_0(spec, noise):
    column = torch.full((1000, 1), 0.1, dtype=torch.float64)
    column[::3] += noise
    found = measure(Samples(column, column.clone()), spec)
    assert (found.deviation, found.target_deviation) == ((1,), (1,))
    assert found.apply_to_inputs(column).abs().max() < 1e-15


def test_each_target_of_a_regression_is_scaled_by_itself():
    rows = torch.arange(5.0)
    targets = torch.stack([1000 + rows, 0.001 * rows, torch.full((5,), 7.0)], dim=1)
    scale = measure(Samples(rows[:, None], targets), Normalize.STANDARD)
    found = Normalization.from_json(scale.to_json())
    scaled = found.apply_to_targets(targets)
    assert torch.allclose(scaled.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)
    assert torch.allclose(found.targets_in_units(scaled).float(), targets, rtol=1e-6)


def test_a_scale_that_all_targets_once_shared_is_still_read():
    old = {"mean": [], "deviation": [], "targetMean": 20.0, "targetDeviation": 10.0}
    found = Normalization.from_json(old)
    assert found.apply_to_targets(torch.tensor([[10.0, 30.0]])).tolist() == [[-1, 1]]


def test_normalization_of_images_is_per_channel_and_leaves_classes_alone():
    images = torch.rand(6, 3, 4, 4) * torch.tensor([1.0, 10.0, 100.0]).reshape(1, 3, 1, 1)
    samples = Samples(images, torch.arange(6))
    found = measure(samples, Normalize.STANDARD)
    scaled = samples.scaled(found)
    assert len(found.mean) == 3
    assert torch.allclose(scaled.inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(scaled.inputs.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    assert scaled.targets is samples.targets


def test_samples_are_scaled_where_they_are_and_measured_part_by_part(monkeypatch):
    monkeypatch.setattr(normalization, "_AT_ONCE", 7)
    images = 1000 + torch.rand(11, 2, 2, 3) * torch.tensor([1.0, 10.0]).reshape(1, 2, 1, 1)
    samples = Samples(images, torch.arange(11))
    deviation, mean = torch.std_mean(images.double(), (0, 2, 3), correction=0)
    found = measure(samples, Normalize.STANDARD)
    assert found.mean == pytest.approx(tuple(mean.tolist()), rel=1e-12)
    assert found.deviation == pytest.approx(tuple(deviation.tolist()), rel=1e-12)
    assert samples.scaled(found).inputs is images


def test_no_normalization_keeps_values():
    samples = table_of(3).samples
    assert samples.scaled(measure(samples, Normalize.NONE)).inputs is samples.inputs


def epoch(sampler, step=0):
    return list(sampler.shares(step, CPU))


def counting(sampler, step, indices):
    """Return those of a rank's indices that count."""
    share = sampler.share(step)
    return indices if share is None else indices[: share.own]


@pytest.mark.parametrize(
    ("samples", "batch", "size"),
    [(100, 10, 1), (103, 10, 1), (103, 10, 2), (101, 10, 2), (64, 64, 4), (64, 10, 3), (65, 64, 4), (9, 7, 5)],
)
def test_an_epoch_shows_every_sample_once_in_shares_as_equal_as_can_be(samples, batch, size):
    ranks = [Sampler(samples, batch, rank, size, seed=3) for rank in range(size)]
    steps = ranks[0].steps_per_epoch
    shares = [[counting(rank, step, part) for step, part in enumerate(epoch(rank))] for rank in ranks]
    seen = torch.cat([part for parts in shares for part in parts]).tolist()
    assert sorted(seen) == list(range(samples))
    for step, parts in enumerate(zip(*shares, strict=True)):
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        told = ranks[0].share(steps + step)
        assert (told is None) == (max(sizes) == min(sizes))
        assert told is None or (told.own, told.largest, told.mean) == (sizes[0], max(sizes), sum(sizes) / size)
    assert all(len(part) for rank in ranks for part in epoch(rank)), "every rank has something to pass"


def test_which_samples_make_up_a_step_does_not_depend_on_the_number_of_ranks():
    alone = Sampler(103, 10, 0, 1, seed=3)
    for size in (2, 3, 4, 7, 16):
        ranks = [Sampler(103, 10, rank, size, seed=3) for rank in range(size)]
        assert ranks[0].steps_per_epoch == alone.steps_per_epoch
        for step, (whole, *parts) in enumerate(zip(epoch(alone), *map(epoch, ranks), strict=True)):
            together = torch.cat([counting(rank, step, part) for rank, part in zip(ranks, parts, strict=True)])
            assert torch.equal(together, whole)


def test_every_epoch_has_an_order_of_its_own():
    sampler = Sampler(50, 10, 0, 1, seed=0)
    assert not torch.equal(sampler.order(0), sampler.order(1))
    assert torch.equal(sampler.order(1), Sampler(50, 10, 0, 1, seed=0).order(1))


def test_a_resumed_epoch_goes_on_where_it_was():
    sampler = Sampler(55, 10, 0, 1, seed=0)
    whole = epoch(sampler, step=6)
    rest = epoch(sampler, step=8)
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_samples_are_counted_exactly():
    sampler = Sampler(55, 10, 0, 2, seed=0)
    assert sampler.steps_per_epoch == 6
    assert [sampler.samples_before(step) for step in (0, 1, 5, 6, 7)] == [0, 10, 50, 55, 65]


def test_fewer_samples_than_a_batch_are_refused():
    with pytest.raises(UserError, match=r"spec.training.globalBatchSize: 64, but the training split has only 40"):
        Sampler(40, 64, 0, 1, seed=0)
