"""What a user can get wrong about data: refused before training starts, with the field and the value."""

import bz2
import gzip
import json
import lzma
import os
import re
import tarfile

import datasets
import pyarrow as pa
import pytest
from corpora import write_tokenizer
from pyarrow import parquet

from trainwright_worker.data.dataset import Dataset
from trainwright_worker.errors import DataError, UserError
from trainwright_worker.files import find_all

from .conftest import picture, sentences, write_jsonl, write_tar

pytestmark = pytest.mark.local

TEXT = {"labeledText": {"path": "a.jsonl"}}
GOOD = [{"text": "a b", "label": "x"}, {"text": "c", "label": "y"}]


@pytest.fixture
def refused(open_data):
    def check(words, dataset, task="classification", kind=DataError, **changes):
        with pytest.raises(kind) as caught:
            open_data(dataset, task, **changes)
        assert re.search(words, caught.value.message), caught.value.message

    return check


@pytest.mark.parametrize(
    ("rows", "source", "words"),
    [
        (
            GOOD,
            {"textField": "review"},
            r"labeledText.textField: line 1 of .*a.jsonl has no column 'review'; it has text, label",
        ),
        (GOOD, {"labelField": "stars"}, r"labeledText.labelField: line 1 of .*a.jsonl has no column 'stars'"),
        (
            [*GOOD, {"text": " ", "label": "x"}],
            {},
            r"labeledText.path: column 'text' must hold text in every row, but holds ' ' in line 3",
        ),
        ([{"text": 3, "label": "x"}], {}, r"'text' must hold text in every row, but holds 3 in line 1"),
        (
            [{"text": "a", "label": [1]}],
            {},
            r"labelField: column 'label' must hold text or integers, but holds \[1\] in line 1",
        ),
        (
            [*GOOD, {"text": "half \ud83d", "label": "x"}],
            {},
            r"labeledText.path: column 'text' must hold text in every row, but holds 'half \\ud83d' in line 3",
        ),
        (
            [{"text": "a", "label": "\ud83d"}],
            {},
            r"column 'label' must hold text or integers, but holds '\\ud83d' in line 1",
        ),
        (["no object"], {}, r"labeledText.path: line 1 of .*a.jsonl is not a JSON object"),
        ([], {}, r"labeledText.path: a.jsonl contains no texts"),
    ],
)
def test_labelled_text(refused, tmp_path, rows, source, words):
    write_jsonl(tmp_path / "a.jsonl", rows)
    refused(words, {"labeledText": {"path": "a.jsonl", **source}})


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("text,label\na, and b,x\nc,y\n", "labeledText.path: line 2 of .*a.csv has 3 values, but the header has 2"),
        ("text,label\na,x\nc\n", "labeledText.path: line 3 of .*a.csv has 1 values, but the header has 2"),
        ("text,label,label\na,x,y\n", "labeledText.path: .*a.csv has 2 columns named 'label'"),
        ("text,stars\na,x\n", "labeledText.labelField: .*a.csv has no column 'label'; it has text, stars"),
        ('text,label\na,x\n"b,y\nc,y\n', "cannot read .*a.csv from line 3 on as UTF-8 CSV: unexpected end"),
    ],
)
def test_labelled_text_in_csv(refused, tmp_path, lines, words):
    (tmp_path / "a.csv").write_text(lines)
    refused(words, {"labeledText": {"path": "a.csv"}})


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"review": ["a"], "label": ["x"]},
            "labeledText.textField: .*a.parquet has no column 'text'; it has review, label",
        ),
        (
            {"text": ["a", None], "label": ["x", "y"]},
            "column 'text' must hold text in every row, but holds None in row 2 of .*a.parquet",
        ),
        (
            {"text": ["a", "b"], "label": ["x", None]},
            "labelField: column 'label' must hold a target in every row, but holds None in row 2",
        ),
    ],
)
def test_labelled_text_in_parquet(refused, tmp_path, columns, words):
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    refused(words, {"labeledText": {"path": "a.parquet"}})


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_compressed_files_that_are_damaged(refused, tmp_path, suffix, compress, damage):
    rows = "".join(f"{n**3 % 10007},{n % 2}\n" for n in range(9000))
    content = bytearray(compress(f"x,y\n{rows}".encode()))
    if damage == "cut":
        del content[-1000:]
    else:
        content[10:20] = b"\xff" * 10
    (tmp_path / f"a.csv.{suffix}").write_bytes(content)
    refused(f"csv.path: cannot read .*a.csv.{suffix}: ", {"csv": {"path": f"a.csv.{suffix}", "target": "y"}})


def test_text_files(refused, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", GOOD)
    write_jsonl(tmp_path / "t.jsonl", [{"text": "a", "label": "z"}])
    refused(
        "labeledText.testPath: the label 'z' is not a class",
        {"labeledText": {"path": "a.jsonl", "testPath": "t.jsonl"}},
    )
    (tmp_path / "a.txt").write_text("text")
    refused("a.txt is not a folder, or a .jsonl, .csv or .parquet file", {"labeledText": {"path": "a.txt"}})
    (tmp_path / "broken.jsonl").write_text('{"text": "a", "label"')
    refused("line 1 of .*broken.jsonl is not valid JSON", {"labeledText": {"path": "broken.jsonl"}})
    (tmp_path / "imdb" / "train").mkdir(parents=True)
    refused("imdb/train contains no LABEL", {"labeledText": {"path": "imdb"}})
    (tmp_path / "imdb" / "train" / "pos").mkdir()
    (tmp_path / "imdb" / "train" / "pos" / "1.txt").write_text("\n")
    refused("spec.dataset: all samples have the same class, 'pos'", {"labeledText": {"path": "imdb"}})
    (tmp_path / "imdb" / "train" / "neg").mkdir()
    (tmp_path / "imdb" / "train" / "neg" / "1.txt").write_text("a")
    refused("pos/1.txt is empty", {"labeledText": {"path": "imdb"}})


def test_text_for_a_language_model(refused, tmp_path):
    modeling = "language-modeling"
    refused("spec.dataset.text.path: none.txt does not exist", {"text": {"path": "none.txt"}}, modeling)
    (tmp_path / "a.txt").write_text("")
    refused("spec.dataset.text.path: a.txt contains no text", {"text": {"path": "a.txt"}}, modeling)
    (tmp_path / "a.txt").write_text("short")
    words = "spec.dataset.tokenizer.maxLength: 64, but the train split has only 5 tokens"
    source = {"text": {"path": "a.txt"}, "tokenizer": {"name": "byte", "maxLength": 64}}
    refused(words, source, modeling, UserError)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    refused("a.txt is not UTF-8 text", {"text": {"path": "a.txt"}}, modeling)


def test_tokenizers(refused, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", GOOD)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "vocab.txt").write_text("a")
    refused(
        "spec.dataset.tokenizer.path: the folder .*old contains no tokenizer.json",
        {**TEXT, "tokenizer": {"path": "old"}},
    )
    (tmp_path / "old" / "tokenizer.json").write_text("{}")
    refused(
        "spec.dataset.tokenizer.path: .*tokenizer.json is not a valid tokenizer", {**TEXT, "tokenizer": {"path": "old"}}
    )
    refused("tokenizer.path: none does not exist", {**TEXT, "tokenizer": {"path": "none"}})
    write_tokenizer(tmp_path / "old", "ab ab")
    write_tokenizer(tmp_path / "other", "cd cd")
    for field, value in (("path", "other"), ("name", "word")):
        words = f"tokenizer.{field}: {value}, but the weights of spec.model.pretrained, old, were trained with another"
        own = {"name": "transformer", "pretrained": "old"}
        refused(words, {**TEXT, "tokenizer": {field: value}}, kind=UserError, model=own)
    small = {**TEXT, "tokenizer": {"name": "bpe", "vocabularySize": 100}}
    refused("tokenizer.vocabularySize: 100, but bpe needs at least 259", small, kind=UserError)


def test_images(refused, open_data, tmp_path):
    source = {"imageFolder": {"path": ".", "size": 8}}
    refused("imageFolder.path: .* contains no folders of classes", source)
    for split, label in (("train", "a"), ("train", "b"), ("val", "c")):
        (tmp_path / split / label).mkdir(parents=True)
        (tmp_path / split / label / "0.png").write_bytes(picture())
    refused("imageFolder.path: .*val has the class 'c', which the training images lack", source)
    (tmp_path / "val" / "c").rename(tmp_path / "val" / "a")
    assert isinstance(open_data(source), Dataset)
    (tmp_path / "train" / "b" / "1.png").write_bytes(picture()[:-40])
    refused("imageFolder.path: cannot decode the image .*train/b/1.png", source)
    (tmp_path / "train" / "b" / "1.png").write_bytes(b"no image")
    refused("imageFolder.path: cannot decode the image .*train/b/1.png: cannot identify image file", source)
    for file in (tmp_path / "train" / "b").iterdir():
        file.unlink()
    refused("the folder of class 'b' in .* contains no images", source)
    (tmp_path / "train" / os.fsdecode(b"\xfc")).mkdir()
    refused(r"imageFolder.path: the name of the folder .*/train/\\xfc is not valid UTF-8", source)
    (tmp_path / "train" / os.fsdecode(b"\xfc")).rmdir()
    (tmp_path / "train" / "b" / os.fsdecode(b"\xfc.png")).write_bytes(b"no image")
    refused(r"cannot decode the image .*/train/b/\\xfc.png", source)
    (tmp_path / "Training").mkdir()
    refused("imageFolder.path: .* has two train splits, '[tT]rain(ing)?' and '[tT]rain(ing)?'", source)
    (tmp_path / "Training").rmdir()
    (tmp_path / "val" / "b").mkdir()
    (tmp_path / "val" / "b" / "0.png").write_bytes(picture())
    gray = {"imageFolder": {"path": "val", "size": 8, "grayscale": True}, "normalize": "imagenet"}
    refused("spec.dataset.normalize: imagenet, but the images have 1 channel", gray, kind=UserError)


def test_shards(refused, tmp_path):
    source = {"webdataset": {"path": "s-{0..1}.tar", "size": 8}}
    write_tar(tmp_path / "s-0.tar", [("a.png", picture()), ("a.cls", b"0"), ("b.png", picture())])
    refused("webdataset.path: s-1.tar does not exist", source)
    write_tar(tmp_path / "s-1.tar", [("c.png", picture()), ("c.cls", b"0")])
    refused("the sample 'b' in .*s-0.tar has no .cls", source)
    write_tar(tmp_path / "s-0.tar", [("a.cls", b"0")])
    refused("the sample 'a' in .*s-0.tar has no image \\(.jpg, .jpeg, .png, .webp\\)", source)
    (tmp_path / "s-0.tar").write_bytes(b"no tar" * 200)
    refused("s-0.tar is not a complete tar file", source)
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress((tmp_path / "s-1.tar").read_bytes()))
    refused("webdataset.path: .*s.tar.gz is compressed", {"webdataset": {"path": "s.tar.gz", "size": 8}})


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a.jpg", "a.png", "a.cls"), "the sample 'a' in .*s.tar has two images"),
        (("a.png", "a.cls", "a.png"), "the sample 'a' in .*s.tar has two images"),
        (("x/a.png", "x/a.cls", "x/a.cls"), "the sample 'x/a' in .*s.tar has two labels"),
        (("a.v1.png", "a.v1.cls"), "webdataset.path: s.tar contains no samples"),
    ],
)
def test_samples_of_shards_that_are_not_one_image_and_one_label(refused, tmp_path, names, words):
    write_tar(tmp_path / "s.tar", [(name, b"0" if name.endswith("cls") else picture()) for name in names])
    refused(words, {"webdataset": {"path": "s.tar", "size": 8}})


@pytest.mark.parametrize("damage", ["cut in a header", "cut after a member", "header", "joined"])
def test_shards_that_are_read_no_further_than_they_are_whole(refused, tmp_path, damage):
    members = [
        (f"{n}.{kind}", picture() if kind == "png" else b"01"[n:][:1]) for n in range(2) for kind in ("png", "cls")
    ]
    write_tar(tmp_path / "s.tar", members)
    content = (tmp_path / "s.tar").read_bytes()
    with tarfile.open(tmp_path / "s.tar") as archive:
        second = archive.getmember("1.png").offset
    content = {
        "cut in a header": content[: second + 100],
        "cut after a member": content[:second],
        "header": content[:second] + b"?" + content[second + 1 :],
        "joined": content * 2,
    }[damage]
    (tmp_path / "s.tar").write_bytes(content)
    refused("webdataset.path: .*s.tar is not a complete tar file: byte", {"webdataset": {"path": "s.tar", "size": 8}})


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            ["x", None],
            "spec.dataset.parquet.target: column 'y' must hold a target in every row, but holds None in row 2",
        ),
        (
            [1.0, float("nan")],
            "spec.dataset.parquet.target: column 'y' must hold a target in every row, but holds nan in row 2",
        ),
        ([0.5, 1.0], "spec.dataset.parquet.target: column 'y' has 2 different numbers, such as 0.5"),
    ],
)
def test_what_spells_no_class_in_parquet(refused, tmp_path, labels, words):
    parquet.write_table(pa.table({"a": [1.0, 2.0], "y": labels}), tmp_path / "a.parquet")
    refused(words, {"parquet": {"path": "a.parquet", "target": "y"}})


def test_saved_datasets(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused("huggingface.path: .*empty is not a dataset", {"huggingface": {"path": "empty", "text": "text"}})
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["a", "b"]))
    rows = datasets.Dataset.from_dict({"text": ["u", "v"], "label": [0, -1]}, features=features)
    datasets.DatasetDict(train=rows).save_to_disk(tmp_path / "saved")
    refused(
        "huggingface.text: .* has no column 'body'; it has text, label",
        {"huggingface": {"path": "saved", "text": "body"}},
    )
    words = "huggingface.label: column 'label' must hold a target in every row, but holds None in row 2 of the training"
    refused(words, {"huggingface": {"path": "saved", "text": "text"}})
    refused("huggingface.image: 'text' .* contains .*, not images", {"huggingface": {"path": "saved", "image": "text"}})
    refused(
        "huggingface.features: column 'text' must hold finite numbers of 32 bits, but holds 'u' in row 1",
        {"huggingface": {"path": "saved", "features": ["text"]}},
    )
    datasets.DatasetDict(test=rows).save_to_disk(tmp_path / "tests")
    rows = datasets.Dataset.from_dict({"text": ["u", ""], "label": [0, 1]})
    datasets.DatasetDict(train=rows).save_to_disk(tmp_path / "blank")
    blank = {"huggingface": {"path": "blank", "text": "text"}}
    refused("huggingface.text: column 'text' must hold text in every row, but holds '' in row 2", blank)
    refused("has no split called train; it has test", {"huggingface": {"path": "tests", "text": "text"}})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"frames": [[1, float("nan")]] * 9, "text": "a"},
            "framesField: 'frames' must hold a list of lists of finite numbers, but .* line 1",
        ),
        ({"frames": [[1], [1, 2]], "text": "a"}, "framesField: 'frames' must hold a list of lists .* line 1"),
        ({"frames": [], "text": "a"}, "framesField: 'frames' must hold .* line 1"),
        ({"frames": [[10**400]] * 3, "text": "a"}, "framesField: 'frames' must hold a list of lists .* line 1"),
        (
            {"frames": [[1.0]] * 3, "text": ""},
            "textField: column 'text' must hold a target in every row, but holds '' in line 1",
        ),
        (
            {"frames": [[1.0]] * 3, "text": "\ud83d"},
            r"textField: column 'text' must hold text in every row, but holds '\\ud83d' in line 1",
        ),
        ({"frames": [[1.0]] * 3, "text": "aab"}, "must have one frame per character, .* but holds 'aab' in line 1"),
        ({"spectrum": [], "text": "a"}, "framesField: line 1 of .* has no column 'frames'; it has spectrum, text"),
    ],
)
def test_sequences(refused, tmp_path, row, words):
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    refused(words, {"labeledSequences": {"path": "s.jsonl"}}, "transcription")


def test_sequences_of_a_test_file(refused, tmp_path):
    write_jsonl(tmp_path / "s.jsonl", [{"frames": [[1.0]] * 3, "text": "a"}])
    write_jsonl(tmp_path / "t.jsonl", [{"frames": [[1.0]] * 3, "text": "b"}])
    source = {"labeledSequences": {"path": "s.jsonl", "testPath": "t.jsonl"}}
    refused(
        "labeledSequences.testPath: t.jsonl has the characters 'b', which the training data lacks",
        source,
        "transcription",
    )


def test_texts_in_parquet_that_are_not_utf8(refused, tmp_path):
    places = pa.array([0, 1, 4], pa.int32()).buffers()[1]
    texts = pa.StringArray.from_buffers(2, places, pa.py_buffer(b"a\xed\xa0\xbd"))
    parquet.write_table(pa.table({"text": texts, "label": ["x", "y"]}), tmp_path / "t.parquet")
    refused("labeledText.path: cannot read .*t.parquet as Parquet: 'utf-8'", {"labeledText": {"path": "t.parquet"}})


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, None], pa.timestamp("ns")),
        pa.array([1, None], pa.date32()),
        pa.array([1, None], pa.duration("s")),
        pa.array([True, None]),
        pa.array([1, None], pa.int64()),
        pa.array([1, 1e39]),
    ],
)
def test_what_is_no_number_in_parquet(refused, tmp_path, column):
    parquet.write_table(pa.table({"a": column, "y": ["u", "v"]}), tmp_path / "t.parquet")
    words = "parquet.path: column 'a' must hold finite numbers of 32 bits, but holds .* in row 2 of .*t.parquet"
    refused(words, {"parquet": {"path": "t.parquet", "target": "y"}})


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ([True, False], [0, 1], "holds bool in .*0.parquet, but numbers in .*1.parquet"),
        ([0, 1], ["0", "1"], "holds numbers in .*0.parquet, but texts in .*1.parquet"),
    ],
)
def test_labels_of_two_kinds_in_parquet(refused, tmp_path, first, second, words):
    for part, labels in enumerate((first, second)):
        parquet.write_table(pa.table({"a": [1.0, 2.0], "y": labels}), tmp_path / f"{part}.parquet")
    refused(f"parquet.target: column 'y' {words}", {"parquet": {"path": ".", "target": "y"}})


def test_parquet(refused, tmp_path):
    parquet.write_table(pa.table({"a": [1.0, None], "y": ["u", None]}), tmp_path / "t.parquet")
    refused("parquet.target: .* has no column 'z'; it has a, y", {"parquet": {"path": "t.parquet", "target": "z"}})
    refused(
        "parquet.target: column 'y' must hold a target in every row",
        {"parquet": {"path": "t.parquet", "target": "y"}},
    )
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    refused("cannot read .* as Parquet", {"parquet": {"path": "t.parquet", "target": "y"}})


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (("b", "y"), r"parquet.path: .*/1.parquet has no column 'a', which .*/0.parquet has"),
        (("a", "b", "c", "y"), r"parquet.path: .*/0.parquet has no column 'c', which .*/1.parquet has"),
    ],
)
def test_parquet_files_of_different_columns(refused, open_data, tmp_path, second, words):
    for part, names in enumerate((("a", "b", "y"), second)):
        parquet.write_table(pa.table({name: [1, 2] for name in names}), tmp_path / f"{part}.parquet")
    refused(words, {"parquet": {"path": ".", "target": "y"}})
    chosen = open_data({"parquet": {"path": ".", "target": "y", "features": ["b"]}})
    assert chosen.splits.train.features == ("b",), "what nobody reads may differ"


def test_texts_to_predict(open_data, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": text, "label": n % 2} for n, text in enumerate(sentences(6))])
    data = open_data({**TEXT, "tokenizer": {"name": "word"}})
    assert data.batch_of_texts(["good film", "warm"]).mask.sum(1).tolist() == [2, 1]
    with pytest.raises(UserError, match=re.escape("spec.prediction.texts[1]: ' ' has no tokens")):
        data.batch_of_texts(["good", " "])


def test_a_range_of_one_is_a_range(tmp_path):
    (tmp_path / "shard-7.tar").touch()
    (found,) = find_all("shard-{7..7}.tar", str(tmp_path), "spec.dataset.webdataset.path")
    assert found.path == str(tmp_path / "shard-7.tar")
