"""The smaller parts of reading data: ranges, paths, labels, what is kept on disk, what was measured before."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from trainwright.api.spec.corpora import WebDatasetData
from trainwright_worker.data.blocks import BlockReader
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.measured import Measured, compare
from trainwright_worker.data.normalization import Normalization
from trainwright_worker.data.ragged import Scratch
from trainwright_worker.data.shards import _samples
from trainwright_worker.data.splits import find_splits
from trainwright_worker.data.tokens import Tokenizer
from trainwright_worker.errors import DataError, UserError
from trainwright_worker.files import Location, expand, find, find_all, place


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
    with pytest.raises(DataError, match=r"spec.x: no file matches \*.csv"):
        find_all("*.csv", root, "spec.x")
    with pytest.raises(DataError, match=r"contains no \.csv file"):
        find_all("sub", root, "f", (".csv",))
    with pytest.raises(DataError, match="ftp:// is unknown"):
        place("ftp://host/a", root, "f")


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def below(folder, files):
    return [str(Path(file.path).relative_to(folder)) for file in files]


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (".", ["_x.txt", "a.parquet", "sub/b.parquet", "x.txt"]),
        ("*.parquet", ["a.parquet"]),
        ("**/*.parquet", ["a.parquet", "sub/b.parquet"]),
        ("*.txt", ["_x.txt", "x.txt"]),
        (".ipynb_checkpoints/*", [".ipynb_checkpoints/x.txt"]),
        (".ipynb_checkpoints", [".ipynb_checkpoints/x.txt"]),
        ("_temporary/*.parquet", ["_temporary/a.parquet"]),
        (".*.parquet", [".a.parquet"]),
        ("*/_*.parquet", ["sub/_c.parquet"]),
    ],
)
def test_hidden_and_temporary_files_are_none_of_the_data_unless_they_are_named(tmp_path, path, names):
    folder = tmp_path / ".cache" / "_data"  # What lies above the data says nothing.
    write(folder, "a.parquet", "sub/b.parquet", "x.txt", "_x.txt")
    write(folder, ".ipynb_checkpoints/x.txt", ".a.parquet", "_temporary/a.parquet", "sub/_c.parquet")
    assert below(folder, find_all(path, str(folder), "f", (".parquet", ".txt"))) == names


def test_a_folder_as_a_config_map_mounts_it_is_read_once(tmp_path):
    write(tmp_path, "..2024/a.parquet", "..2024/b.txt")
    (tmp_path / "..data").symlink_to("..2024")
    for name in ("a.parquet", "b.txt"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    for path in (".", "*", "**/*"):
        found = find_all(path, str(tmp_path), "f", (".parquet", ".txt"))
        assert below(tmp_path, found) == ["a.parquet", "b.txt"]


def test_links_to_folders_are_followed_but_never_in_circles(tmp_path):
    write(tmp_path, "full/x/1.txt", "data/y/2.txt")
    (tmp_path / "data" / "x").symlink_to(tmp_path / "full" / "x")
    (tmp_path / "full" / "x" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "y" / "up").symlink_to(tmp_path / "data")
    folder = find("data", str(tmp_path), "f")
    assert below(tmp_path, folder.folders()) == ["data/x", "data/y"]
    assert below(tmp_path, folder.files()) == ["data/x/1.txt", "data/y/2.txt"]
    assert below(tmp_path, find_all("data/*/*.txt", str(tmp_path), "f")) == ["data/x/1.txt", "data/y/2.txt"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("train", "val", "test", "notes"), {"train": "train", "validation": "val", "test": "test"}),
        (("Training", "Testing"), {"train": "Training", "test": "Testing"}),
        (("TRAIN", "Valid"), {"train": "TRAIN", "validation": "Valid"}),
        (("train", "dev"), {"train": "train", "validation": "dev"}),
        (("cat", "dog"), {}),
    ],
)
def test_splits_of_the_data_go_by_many_names(names, found):
    assert find_splits(names, "spec.x: data") == found


def test_two_parts_of_the_data_that_are_the_same_split_are_refused():
    with pytest.raises(DataError, match=r"spec.x: data has two validation splits, 'val' and 'Dev'"):
        find_splits(("train", "val", "Dev"), "spec.x: data")


def test_labels_are_numbered_in_the_order_of_numbers_or_of_text():
    assert Labels(["10", "9", "10"]).classes() == ("9", "10")
    labels = Labels(["b", "a ", "b"])
    assert labels.classes() == ("a", "b")
    assert labels.index(("a", "b"), "f").tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"spec.x: the label 'b' is not a class of the training data, which has a"):
        labels.index(("a",), "spec.x")


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
    found = _samples(place, WebDatasetData(path="s.tar")).samples
    assert [(end - begin, *rest) for begin, end, *rest in found] == [(5 << 20, "7", "a.jpg"), (5 << 20, "7", "b.jpg")]
    assert remote.fetched < 4 << 20 < len(remote.content)


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
        (Measured(("a", "b")), Measured(("b", "a")), "spec.x: donor was trained on the classes b, a, but .* has a, b"),
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
    assert doubt.startswith("spec.x: donor was trained on data with another normalization") == doubtful


@pytest.mark.parametrize("raw", [None, {}, {"classes": None}, []])
def test_weights_that_say_nothing_of_their_data_are_taken_as_they_are(raw):
    assert compare(Measured(tokenizer=WORDS), raw, "donor", "spec.x") == ""
