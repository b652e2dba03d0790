"""The pure parts of reading data: order, padding, blocks, ranges, labels, augmentation, and what is kept on disk."""

import io
import itertools
import json
import tarfile
from dataclasses import replace
from random import Random
from unittest.mock import patch

import numpy as np
import pytest
import torch
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainwright.api.spec.corpora import ImageFolderData, WebDatasetData
from trainwright.api.spec.dataset import Normalize
from trainwright.api.spec.preparation import AugmentationSpec
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.data import sequences
from trainwright_worker.data.augment import augment, center, draw_part
from trainwright_worker.data.blocks import BlockReader
from trainwright_worker.data.files import Location, expand, find, find_all, place
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.loader import Loader, read_ahead
from trainwright_worker.data.measured import Measured, compare
from trainwright_worker.data.normalization import Normalization, measure_samples
from trainwright_worker.data.pictures import ChangedSamples, Pictures, choose_some, decode
from trainwright_worker.data.ragged import Ragged, Scratch
from trainwright_worker.data.sampler import WINDOW_BLOCKS, Sampler
from trainwright_worker.data.sequences import Blocks, Frames, Tokens, pad, round_up
from trainwright_worker.data.shards import _samples
from trainwright_worker.data.table import Samples
from trainwright_worker.data.tokens import Tokenizer
from trainwright_worker.errors import DataError, UserError

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


@pytest.mark.parametrize(
    ("path", "paths"),
    [
        ("a.tar", ["a.tar"]),
        ("s3://b/{008..010}.tar", ["s3://b/008.tar", "s3://b/009.tar", "s3://b/010.tar"]),
        ("{0..1}-{1..0}", ["0-1", "0-0", "1-1", "1-0"]),
    ],
)
def test_ranges_of_numbers(path, paths):
    assert expand(path) == paths


def test_paths_of_the_spec_lead_to_files(tmp_path):
    for name in ("b.txt", "a.txt", "c.md", "sub/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    root = str(tmp_path)
    assert [file.read() for file in find_all("*.txt", root, "f")] == [b"a.txt", b"b.txt"]
    assert [file.read() for file in find_all(".", root, "f", (".txt",))] == [b"a.txt", b"b.txt", b"sub/d.txt"]
    assert find("a.txt", root, "f").read(2, 4) == b"tx"
    with pytest.raises(DataError, match=r"spec.x: no file fits \*.csv"):
        find_all("*.csv", root, "spec.x")
    with pytest.raises(DataError, match=r"holds no \.csv file"):
        find_all("sub", root, "f", (".csv",))
    with pytest.raises(DataError, match="ftp:// is unknown"):
        place("ftp://host/a", root, "f")


def test_batches_are_padded_to_a_multiple_of_eight_but_not_beyond_the_longest_sample():
    assert [round_up(length, 100) for length in (1, 8, 9, 97, 100)] == [8, 8, 16, 100, 100]
    filled, mask = pad([np.array([5, 6]), np.array([7, 8, 9])], 3, 1)
    assert filled.tolist() == [[5, 6, 1], [7, 8, 9]]
    assert mask.tolist() == [[True, True, False], [True, True, True]]


def test_texts_of_different_lengths_make_a_batch_with_a_mask():
    ids = Ragged(np.arange(10, dtype=np.uint16), np.array([0, 2, 2 + 5, 10]))
    tokens = Tokens(ids, torch.tensor([2, 0]), torch.tensor([1, 0]), padding=99, max_length=20)
    batch = tokens.take(torch.tensor([0, 1]))
    assert batch.inputs.tolist() == [[7, 8, 9, 99, 99, 99, 99, 99], [0, 1, 99, 99, 99, 99, 99, 99]]
    assert batch.mask.sum(1).tolist() == [3, 2]
    assert batch.targets.tolist() == [1, 0]
    fixed = Tokens(ids, torch.tensor([0]), torch.tensor([0]), padding=0, max_length=20, fixed=True)
    assert fixed.take(torch.tensor([0])).inputs.shape == (1, 20)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.booleans(), st.data())
def test_texts_in_memory_make_the_batches_that_texts_in_their_file_make(lengths, fixed, data):
    ids = Ragged(np.arange(sum(lengths), dtype=np.uint16), np.array([0, *itertools.accumulate(lengths)]))
    rows = torch.tensor(data.draw(st.permutations(range(len(lengths)))))
    asked = torch.tensor(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8)))

    def take(resident: int) -> Batch:
        with patch.object(sequences, "_RESIDENT_BYTES", resident):
            return Tokens(ids, rows, rows * 2, padding=7, max_length=30, fixed=fixed).take(asked)

    kept, mapped = take(1 << 20), take(0)
    assert torch.equal(kept.inputs, mapped.inputs)
    assert torch.equal(kept.mask, mapped.mask)
    assert torch.equal(kept.targets, mapped.targets)
    assert kept.inputs.dtype == mapped.inputs.dtype == torch.int64


@given(st.integers(2, 200), st.integers(1, 30))
def test_blocks_predict_each_token_once_from_the_one_before(total, length):
    blocks = Blocks(np.arange(total, dtype=np.uint16), length)
    assert len(blocks) == (total - 1) // length
    if len(blocks):
        batch = blocks.take(torch.arange(len(blocks)))
        assert batch.targets.flatten().tolist() == list(range(1, len(blocks) * length + 1))
        assert torch.equal(batch.inputs + 1, batch.targets)
        assert batch.mask is None


def test_frames_are_scaled_and_their_characters_numbered_from_one():
    frames = Ragged(np.arange(8, dtype=np.float32).reshape(4, 2), np.array([0, 3, 4]))
    texts = Ragged(np.array([ord(c) for c in "abb"], np.int32), np.array([0, 2, 3]))
    scale = Normalization((0.0, 1.0), (2.0, 2.0))
    batch = Frames(frames, texts, torch.arange(2), scale, 3, (ord("a"), ord("b"))).take(torch.tensor([0, 1]))
    assert batch.inputs.tolist() == [[[0, 0], [1, 1], [2, 2]], [[3, 3], [0, 0], [0, 0]]]
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.targets.tolist() == [[1, 2], [2, IGNORED]]


def test_labels_are_numbered_in_the_order_of_numbers_or_of_text():
    assert Labels(["10", "9", "10"]).classes() == ("9", "10")
    labels = Labels(["b", "a ", "b"])
    assert labels.classes() == ("a", "b")
    assert labels.index(("a", "b"), "f").tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"spec.x: the label 'b' is no class of the training data, which has a"):
        labels.index(("a",), "spec.x")


def image(height=12, width=16, channels=3, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(dtype)


EVERYTHING = {"horizontalFlip": 0.5, "colorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}}


@pytest.mark.parametrize("crop", [{"randomCrop": {"padding": 2}}, {"resizedCrop": {}}, {}])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_is_a_function_of_its_draw(crop, dtype, channels):
    pytest.importorskip("PIL")
    spec = AugmentationSpec.model_validate({**EVERYTHING, **crop})
    source = image(channels=channels, dtype=dtype)
    first, again, other = (augment(source, spec, (8, 8), 8, 255, Random(seed)) for seed in ("a", "a", "b"))
    assert first.shape == (8, 8, channels)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 0 <= first.min() <= first.max() <= 255
    assert np.array_equal(source, image(channels=channels, dtype=dtype)), "the image itself stays as it is"


def test_a_random_crop_is_a_window_of_the_padded_image_and_a_flip_its_mirror():
    spec = AugmentationSpec.model_validate({"randomCrop": {"padding": 0}, "horizontalFlip": 1})
    source = image(8, 8)
    assert np.array_equal(augment(source, spec, (8, 8), 8, 255, Random(0)), source[:, ::-1])


def test_the_centre_is_what_evaluation_sees():
    assert np.array_equal(center(image(), (8, 8), 12), image()[2:10, 4:12])
    assert center(image(), (6, 6), 6).shape == (6, 6, 3)


class Drawn:
    """One image, encoded."""

    reading = None

    def read(self, row):  # noqa: ARG002
        file = io.BytesIO()
        Image.fromarray(image(20, 30)).save(file, "PNG")
        return file.getvalue()

    def name(self, row):
        return str(row)

    def blocks(self):
        return None


@pytest.mark.parametrize("resize", [None, 16])
def test_training_that_crops_nothing_sees_what_evaluation_sees(resize):
    form, only = ImageFolderData(path="p", size=8, resize=resize), torch.tensor([0])
    mirror = AugmentationSpec.model_validate({"horizontalFlip": 1})
    pictures = Pictures(Drawn(), only, only, form, "f").processed(Normalization(), mirror, 0)
    assert torch.equal(pictures.take(only, 0).inputs.flip(3), pictures.take(only).inputs)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 100))
def test_a_random_part_lies_within_the_image(height, width, seed):
    spec = AugmentationSpec.model_validate({"resizedCrop": {}}).resized_crop
    left, top, right, bottom = draw_part(height, width, spec, Random(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_images_are_checked_from_everywhere_but_from_few_blocks_where_these_must_be_fetched():
    assert choose_some(5, None).tolist() == [0, 1, 2, 3, 4]
    assert choose_some(10**6, None)[[0, -1]].tolist() == [0, 10**6 - 1]
    blocks = torch.arange(100_000) // 100
    chosen = choose_some(100_000, blocks[torch.randperm(100_000)])
    assert len(chosen.unique()) == len(chosen) == 16 * 100
    assert choose_some(3, torch.tensor([7, 7, 9])).sort().values.tolist() in ([0, 1], [0, 1, 2], [2])


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("grayscale", [True, False])
def test_images_of_sixteen_bits_keep_their_shades(form, grayscale):
    shades = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    file = io.BytesIO()
    Image.fromarray(shades).save(file, form)
    found = decode(file.getvalue(), "a", "spec.x", grayscale=grayscale)
    assert (found == np.arange(256).reshape(16, 16, 1)).all()
    assert found.shape[2] == (1 if grayscale else 3)


def test_images_in_memory_change_with_the_epoch_alone_and_not_when_measured():
    images = Samples(torch.rand(20, 3, 8, 8) * 255, torch.arange(20))
    spec = AugmentationSpec.model_validate({"randomCrop": {"padding": 2}, "horizontalFlip": 0.5})
    split = ChangedSamples(images, Normalization((1.0,) * 3, (2.0,) * 3), spec, 7, 255)
    whole = split.take(torch.arange(20), 3)
    assert torch.equal(whole.inputs[5:9], split.take(torch.arange(5, 9), 3).inputs), "whatever it is read with"
    assert not torch.equal(whole.inputs, split.take(torch.arange(20), 4).inputs)
    assert torch.equal(split.take(torch.arange(20)).inputs, (images.inputs - 1) / 2)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_loader_that_begins_at_a_step_yields_what_one_that_came_there_would(threads):
    images = Samples(torch.rand(20, 1, 8, 8), torch.arange(20))
    spec = AugmentationSpec.model_validate({"randomCrop": {"padding": 2}})
    split = ChangedSamples(images, Normalization(), spec, 7, 1)
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
        assert torch.equal(early.inputs, late.inputs)
        assert torch.equal(early.targets, late.targets)


def test_a_failing_reader_ends_the_loop_with_its_error():
    class Broken(ChangedSamples):
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


def test_rows_of_different_lengths_are_written_once_and_mapped(tmp_path):
    calls = []

    def rows():
        calls.append(1)
        yield np.array([1, 2]), np.zeros((1, 3))
        yield np.array([], np.int64), np.ones((2, 3))

    for _ in range(2):
        ids, frames = Scratch(tmp_path).ragged(["key"], ("uint16", "float32"), rows)
        assert [ids.row(row).tolist() for row in range(2)] == [[1, 2], []]
        assert frames.row(1).tolist() == [[1, 1, 1], [1, 1, 1]]
        assert frames.lengths().tolist() == [1, 2]
    assert len(calls) == 1


def test_parts_of_a_file_are_read_by_blocks_of_which_the_newest_are_kept(tmp_path):
    content = np.random.default_rng(0).bytes(100)
    (tmp_path / "a").write_bytes(content)
    file = find("a", str(tmp_path), "f")
    reader = BlockReader(block_bytes=16, kept=2)
    for begin, end in ((0, 5), (10, 40), (90, 100), (3, 99)):
        assert reader.read(file, begin, end, len(content)) == content[begin:end]
    assert len(reader._blocks) == 2


class Remote(AbstractFileSystem):
    """A file system far away that holds one file, and counts what is fetched."""

    cachable = False

    def __init__(self, content):
        super().__init__()
        self.content, self.fetched = content, 0

    def info(self, path, **_):
        return {"name": path, "size": len(self.content), "type": "file"}

    def _open(self, path, mode="rb", block_size=None, **_):
        return RemoteFile(self, path, mode, block_size)


class RemoteFile(AbstractBufferedFile):
    def _fetch_range(self, start, end):
        self.fs.fetched += end - start
        return self.fs.content[start:end]


def test_large_members_of_a_remote_shard_are_not_fetched_for_their_headers():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, size in [("a.jpg", 5 << 20), ("a.cls", 1), ("b.jpg", 5 << 20), ("b.cls", 1)]:
            entry = tarfile.TarInfo(name)
            entry.size = size
            archive.addfile(entry, io.BytesIO(b"7" * size))
    place = Location("s.tar", "far://s.tar", "spec.x", "far")
    place.__dict__["system"] = remote = Remote(content.getvalue())
    found = list(_samples(place, WebDatasetData(path="s.tar")))
    assert [(end - begin, label) for begin, end, label in found] == [(5 << 20, "7")] * 2
    assert remote.fetched < 4 << 20 < len(remote.content)


def test_images_are_scaled_to_one_or_as_imagenet_was():
    images = Samples(torch.full((4, 3, 2, 2), 100.0), torch.zeros(4, dtype=torch.int64))
    assert measure_samples(images, Normalize.UNIT).apply(images).inputs.max() == 1
    assert measure_samples(images, Normalize.IMAGENET).mean == pytest.approx((123.675, 116.28, 103.53))
    with pytest.raises(UserError, match=r"spec.dataset.normalize: imagenet, but the images have 1 channel"):
        measure_samples(Samples(torch.zeros(4, 1, 2, 2), torch.zeros(4)), Normalize.IMAGENET)
    rows = Samples(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.zeros(2, dtype=torch.int64))
    assert measure_samples(rows, Normalize.UNIT).apply(rows).inputs.tolist() == [[0, 0], [1, 0]]


def test_what_was_measured_survives_json():
    found = Measured(("a", "b"), Normalization((0.1,), (0.3,)))
    assert Measured.from_json(found.to_json()) == found


WORDS = Tokenizer(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}, "truncation": None}), 0, None, 8)
CUT = replace(WORDS, definition=WORDS.definition.replace("null", '{"max_length": 4}'), max_length=4)
TURNED = replace(WORDS, definition=json.dumps({"model": {"vocab": {"a": 1, "b": 0}}, "truncation": None}))


@pytest.mark.parametrize(
    ("mine", "theirs", "words"),
    [
        (Measured(tokenizer=WORDS), Measured(tokenizer=TURNED), "spec.x: donor was trained with another tokenizer"),
        (Measured(("a", "b")), Measured(("b", "a")), "spec.x: donor was taught the classes b, a, but .* has a, b"),
    ],
)
def test_weights_whose_tokens_or_outputs_meant_something_else_are_refused(mine, theirs, words):
    with pytest.raises(UserError, match=words):
        compare(mine, theirs.to_json(), "donor", "spec.x")


@pytest.mark.parametrize(
    ("mine", "theirs", "doubtful"),
    [
        (Measured(tokenizer=WORDS), Measured(tokenizer=CUT), False),
        (Measured(tokenizer=WORDS), Measured(("a", "b")), False),
        (Measured(None, Normalization((5.0,), (2.0,))), Measured(None, Normalization((5.1,), (2.1,))), False),
        (Measured(None, Normalization((5.0,), (2.0,))), Measured(None, Normalization((6.0,), (2.0,))), True),
        (Measured(None, Normalization((5.0,), (2.0,))), Measured(None, Normalization((5.0,), (3.0,))), True),
        (Measured(None, Normalization((5.0,), (2.0,))), Measured(), True),
    ],
)
def test_weights_of_data_that_was_scaled_otherwise_are_doubtful(mine, theirs, doubtful):
    doubt = compare(mine, theirs.to_json(), "donor", "spec.x")
    assert doubt.startswith("spec.x: donor was trained on data that was scaled otherwise") == doubtful


@pytest.mark.parametrize("raw", [None, {}, {"classes": None}, []])
def test_weights_that_say_nothing_of_their_data_are_taken_as_they_are(raw):
    assert compare(Measured(tokenizer=WORDS), raw, "donor", "spec.x") == ""
