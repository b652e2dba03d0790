"""Which files are which part of the data, which are none of it, and where samples come from."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from zipfile import ZipFile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from trainwright.api.job import read_spec
from trainwright.api.spec import DatasetSpec
from trainwright.api.spec.corpora import TextData
from trainwright_worker.data.dataset import measure, process, read
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.overlap import check_overlap
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.table import Table
from trainwright_worker.data.texts import open_text
from trainwright_worker.errors import DataError
from trainwright_worker.files import find_all


def spec_of(dataset, task="classification", model=None):
    training = {"epochs": 1, "globalBatchSize": 1}
    usual = {"name": "gpt" if task == "language-modeling" else "linear"}
    return read_spec({"model": model or usual, "dataset": dataset, "task": task, "training": training})


def read_data(dataset, root, task="classification"):
    return read(spec_of(dataset, task), str(root))


def write_texts(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"text": f"{path.name} {n}", "label": "xy"[n % 2]} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def draw(path, shade=7):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), shade, np.uint8)).save(path)


@pytest.mark.parametrize(
    ("own", "link"),
    [
        ("data/b.jsonl", None),
        ("./data//b.jsonl", None),
        ("da*/b.jsonl", None),
        ("own.jsonl", os.symlink),
        ("own.jsonl", os.link),
        ("own/*.jsonl", os.symlink),
    ],
)
def test_files_that_are_trained_on_are_refused_by_any_name(tmp_path, own, link):
    for name in ("a", "b"):
        write_texts(tmp_path / f"data/{name}.jsonl")
    (tmp_path / "own").mkdir()
    if link is not None:
        link(tmp_path / "data/b.jsonl", tmp_path / own.replace("*", "c"))
    for key in ("testPath", "validationPath"):
        source = {"labeledText": {"path": "data/*.jsonl", key: own}}
        with pytest.raises(DataError, match=rf"spec.dataset.labeledText.{key}: \S* is also one of the training files"):
            read_data(source, tmp_path)
    write_texts(tmp_path / "apart.jsonl")
    read_data({"labeledText": {"path": "data/*.jsonl", "testPath": "apart.jsonl"}}, tmp_path)


def test_shards(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in (("1.png", b"p"), ("1.cls", b"0"), ("2.png", b"p"), ("2.cls", b"1")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    (tmp_path / "b.tar").symlink_to("a.tar")
    with pytest.raises(
        DataError, match=r"webdataset.testPath: \S*b.tar is also one of the training files, under the name \S*a.tar"
    ):
        read_data({"webdataset": {"path": "a.tar", "testPath": "b.tar"}}, tmp_path)
    splits, _ = read_data({"webdataset": {"path": "a.tar"}, "split": {"validation": 0, "test": 0}}, tmp_path)
    found = {splits.train.origins.describe(index)["file"] for index in range(2)}
    assert found == {f"{tmp_path}/a.tar/1.png", f"{tmp_path}/a.tar/2.png"}


def test_images_of_a_test_folder_that_are_links_to_those_of_training(tmp_path):
    for number, name in enumerate(("train/cat/1.png", "train/dog/2.png", "test/cat/3.png")):
        draw(tmp_path / "images" / name, number)
    folder = {"imageFolder": {"path": "images", "size": 4}}
    splits, _ = read_data(folder, tmp_path)
    assert splits.test.origins.describe(0) == {"file": f"{tmp_path}/images/test/cat/3.png"}
    (tmp_path / "images/test/dog").mkdir()
    os.link(tmp_path / "images/train/dog/2.png", tmp_path / "images/test/dog/4.png")
    with pytest.raises(
        DataError, match=r"imageFolder.path: \S*test/dog/4.png is also one of .*, under the name \S*train/dog/2.png"
    ):
        read_data(folder, tmp_path)


def test_remote_files_are_the_same_by_their_names():
    def samples(name):
        return Samples(torch.zeros(2, 1), torch.zeros(2), origins=Origins.of_file(name, torch.arange(2)))

    data = DatasetSpec.model_validate({"parquet": {"path": "s3://b/*", "target": "y", "testPath": "s3://b/x"}})
    check_overlap(Table(samples("s3://b/y"), None, samples("s3://b/x")), data)
    with pytest.raises(DataError, match=r"spec.dataset.parquet.testPath: s3://b/x is also one of the training files"):
        check_overlap(Table(samples("s3://b/x"), None, samples("s3://b/x")), data)


@pytest.mark.parametrize("source", ["imageFolder", "labeledText"])
def test_a_class_that_is_called_train_is_not_taken_for_the_training_split(tmp_path, source):
    for name in ("train", "plane", "test"):
        if source == "imageFolder":
            draw(tmp_path / "vehicles" / name / "1.png")
            draw(tmp_path / "vehicles" / name / "inner" / "1.png")
        else:
            (tmp_path / "vehicles" / name / "inner").mkdir(parents=True)
            (tmp_path / "vehicles" / name / "inner" / "1.txt").write_text("text")
    dataset = {source: {"path": "vehicles"}}
    with pytest.raises(
        DataError, match=rf"{source}.path: \S* contains 'train', .* beside 'plane', which are not splits"
    ):
        read_data(dataset, tmp_path)
    (tmp_path / "vehicles/train").rename(tmp_path / "vehicles/car")
    splits, classes = read_data(dataset, tmp_path)
    assert classes == ("car", "plane", "test")
    assert any("no folder called train, so 'test' is used as a class" in note for note in splits.notes)


@pytest.mark.parametrize("source", ["imageFolder", "labeledText", "text"])
def test_files_of_other_kinds_are_counted(tmp_path, source):
    for label in ("a", "b"):
        draw(tmp_path / f"data/{label}/1.png")
        (tmp_path / f"data/{label}/1.txt").write_text("text")
        (tmp_path / f"data/{label}/1.pdf").write_text("text")
    task = "language-modeling" if source == "text" else "classification"
    splits, _ = read_data({source: {"path": "data"}, "split": {"validation": 0, "test": 0}}, tmp_path, task)
    note = next(note for note in splits.notes if "ignored" in note)
    assert source in note
    assert "4 files are ignored, because their extensions (" in note
    assert ".pdf" in note


def test_texts_that_fill_the_length_are_counted(tmp_path):
    rows = [{"text": " ".join(["word"] * count), "label": "xy"[count % 2]} for count in (2, 3, 5, 9)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"labeledText": {"path": "t.jsonl"}, "tokenizer": {"maxLength": 4}, "split": {"validation": 0, "test": 0}}
    spec = spec_of(source, model={"name": "lstm"})
    splits, classes = read(spec, str(tmp_path))
    notes = process(spec, splits, measure(spec, splits, classes, str(tmp_path))).splits.notes
    words = "spec.dataset.tokenizer.maxLength: 2 of 4 texts of the training split have 4 tokens or more"
    assert any(note.startswith(words) for note in notes)


def test_splits_of_a_saved_dataset_that_are_none_of_ours_are_told(tmp_path):
    rows = datasets.Dataset.from_dict({"a": [0.0, 1.0] * 10, "label": [0, 1] * 10})
    datasets.DatasetDict(train=rows, validation_matched=rows, test=rows).save_to_disk(tmp_path / "saved")
    splits, _ = read_data({"huggingface": {"path": "saved", "features": ["a"]}}, tmp_path)
    assert any("saved has the splits validation_matched, which are ignored" in note for note in splits.notes)


def test_a_split_of_saved_images_that_is_a_link_to_the_training_split(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    images = [Image.fromarray(np.full((4, 4), shade, np.uint8)) for shade in range(4)]
    rows = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}, features=features)
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    saved = {"huggingface": {"path": "saved", "image": "image", "size": 4}}
    read_data(saved, tmp_path)
    shutil.rmtree(tmp_path / "saved" / "test")
    (tmp_path / "saved" / "test").symlink_to("train")
    with pytest.raises(DataError, match="is also one of the training files"):
        read_data(saved, tmp_path)


def test_rows_without_a_label_may_be_blank_where_they_are_dropped(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\none,x\n,\ntwo,y\n")
    source = {"labeledText": {"path": "t.csv"}, "split": {"validation": 0, "test": 0}}
    splits, _ = read_data({**source, "missingTargets": "drop"}, tmp_path)
    assert list(splits.train.store.texts()) == ["one", "", "two"]
    assert sorted(splits.train.rows.tolist()) == [0, 2]
    (tmp_path / "t.csv").write_text("text,label\none,x\n,y\n")
    with pytest.raises(DataError, match="column 'text' must hold text"):
        read_data(source, tmp_path)


def test_a_text_may_contain_byte_order_marks_after_its_first_character(tmp_path):
    text = "\ufeffa\ufeff \ufeffb\n" * 3000
    (tmp_path / "t.txt").write_text(text)
    (store,) = open_text(TextData(path="t.txt"), "t.txt", str(tmp_path), "f").files()
    assert "".join(store) == text[1:]


def test_json_that_is_nested_too_deeply_is_no_crash(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": "x"}\n' + "[" * 200_000 + "\n")
    with pytest.raises(DataError, match=r"line 2 of .* is not valid JSON"):
        read_data({"labeledText": {"path": "t.jsonl"}}, tmp_path)


def test_idx_files_lead_back_to_their_images(tmp_path):
    (tmp_path / "i").write_bytes(np.array([2051, 3, 1, 1], ">u4").tobytes() + b"abc")
    (tmp_path / "l").write_bytes(np.array([2049, 3], ">u4").tobytes() + bytes([0, 1, 1]))
    source = {"idx": {"images": "i", "labels": "l"}, "split": {"validation": 0.3, "test": 0}}
    splits, _ = read_data(source, tmp_path)
    for part in (splits.train, splits.validation):
        for index in range(len(part)):
            shade = part.inputs[index].item()
            assert part.origins.describe(index) == {"file": f"{tmp_path}/i", "row": shade - ord("a") + 1}


def listed(path, root, suffixes=(".csv",)):
    return [Path(place.path).relative_to(root).as_posix() for place in find_all(path, str(root), "f", suffixes)]


def test_a_link_to_a_file_that_is_listed_itself_is_not_read_again(tmp_path):
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for name in ("a", "part-1", "part-10"):
        (root / "in").mkdir(parents=True, exist_ok=True)
        (root / "in" / f"{name}.csv").write_text("x\n")
    elsewhere.mkdir()
    (elsewhere / "b.csv").write_text("x\n")
    (root / "latest.csv").symlink_to("in/a.csv")
    (root / "again").symlink_to("in")
    (root / "b.csv").symlink_to(elsewhere / "b.csv")
    (root / "b2.csv").symlink_to(elsewhere / "b.csv")
    own = ["in/a.csv", "in/part-1.csv", "in/part-10.csv"]
    assert listed("data", tmp_path) == [f"data/{name}" for name in ("b.csv", "b2.csv", *own)]
    assert listed("**/*.csv", root) == ["b.csv", "b2.csv", *own]
    assert listed("*.csv", root) == ["b.csv", "b2.csv", "latest.csv"], "what it leads to is not listed here"
    assert listed("again/*.csv", root) == ["again/a.csv", "again/part-1.csv", "again/part-10.csv"]
    assert listed("in/part-{1..10}*.csv", root) == ["in/part-1.csv", "in/part-10.csv"]
    (tmp_path / "link").symlink_to(root)
    assert listed("link", tmp_path) == [f"link/{name}" for name in ("b.csv", "b2.csv", *own)]


def test_a_zip_file_holds_one_file(tmp_path):
    table = "a,y\n" + "".join(f"{n},{'xy'[n % 2]}\n" for n in range(10))
    for name, members in (("one", ["a.csv"]), ("two", ["a.csv", "b.csv"])):
        with ZipFile(tmp_path / f"{name}.csv.zip", "w") as archive:
            for member in members:
                archive.writestr(member, table)
    splits, _ = read_data({"csv": {"path": "one.csv.zip", "target": "y"}}, tmp_path)
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test) if part is not None) == 10
    with pytest.raises(DataError, match=r"two\.csv\.zip contains 2 files, but a zip file must contain one"):
        read_data({"csv": {"path": "two.csv.zip", "target": "y"}}, tmp_path)


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def shard_of(*labels):
    return [
        (f"{n}.{kind}", b"p" if kind == "png" else label) for n, label in enumerate(labels) for kind in ("png", "cls")
    ]


def test_labels_of_shards_mean_what_those_of_tables_mean(tmp_path):
    source = {"webdataset": {"path": "a.tar"}, "split": {"validation": 0, "test": 0}}
    write_tar(tmp_path / "a.tar", shard_of("\ufeffcat".encode(), b"cat", b"dog", b" ", b"NA"))
    with pytest.raises(DataError, match=r"must hold a target in every row, but holds .* sample 4, 'NA' in sample 5 of"):
        read_data(source, tmp_path)
    splits, classes = read_data({**source, "missingTargets": "drop"}, tmp_path)
    assert (classes, sorted(splits.train.rows.tolist())) == (("cat", "dog"), [0, 1, 2])
    assert any("2 rows without a target are dropped" in note for note in splits.notes)
    write_tar(tmp_path / "a.tar", shard_of(b"caf\xe9", b"caf\xe8"))
    with pytest.raises(DataError, match=r"'0.cls' in \S*a.tar is not UTF-8 text"):
        read_data(source, tmp_path)
    write_tar(tmp_path / "a.tar", shard_of(b"0.37", b"1.25"))
    with pytest.raises(DataError, match="which are not classes"):
        read_data(source, tmp_path)
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        link = tarfile.TarInfo("9.png")
        link.type, link.linkname = tarfile.LNKTYPE, "0.png"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"'9\.png' in .* is a link"):
        read_data(source, tmp_path)


def test_images_without_a_class_and_classes_that_look_the_same_are_told(tmp_path):
    for name in (
        "cat/1.png",
        "Cat/2.png",
        "caf\u00e9/3.png",
        "cafe\u0301/4.png",
        "a b/5.png",
        "a\u00a0b/6.png",
        "7.png",
    ):
        draw(tmp_path / "images" / name)
    splits, _ = read_data({"imageFolder": {"path": "images", "size": 4}}, tmp_path)
    assert any("1 images, such as" in note and "7.png, are ignored" in note for note in splits.notes)
    (alike,) = [note for note in splits.notes if "are different classes" in note]
    assert all(name in alike for name in ("'Cat' and 'cat'", "caf", "'a b' and"))


def test_targets_of_parquet_files_that_are_no_classes(tmp_path):
    def table(target, folder="."):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": [1.0, 2.0, 3.0], "y": target}), tmp_path / folder / "t.parquet")

    source = {"parquet": {"path": ".", "target": "y"}}
    for target in ([b"a", b"b", b"a"], [[0, 1], [1, 0], [0, 1]], [{"a": 1}, {"a": 2}, {"a": 1}]):
        table(target)
        with pytest.raises(DataError, match=r"column 'y' of \S* holds .*, which cannot be classes"):
            read_data(source, tmp_path)
    (tmp_path / "t.parquet").unlink()
    table(["a", "b", "a"], "year=2024")
    splits, _ = read_data(source, tmp_path)
    assert any("year in the names of folders" in note for note in splits.notes)
    with pytest.raises(DataError, match="'year' is only in the names of folders"):
        read_data({"parquet": {"path": ".", "target": "year"}}, tmp_path)
