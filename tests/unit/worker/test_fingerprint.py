"""What a run that goes on must find as it was: the samples, their order, and how they were split."""

import json
import os
import shutil
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from trainwright.api.job import read_spec
from trainwright.api.worker import WorkerConfig
from trainwright_worker.data.fingerprint import fingerprint
from trainwright_worker.data.load import load
from trainwright_worker.data.measured import Measured
from trainwright_worker.data.pieces import Fingerprint
from trainwright_worker.data.ragged import Scratch
from trainwright_worker.data.readers import read_source
from trainwright_worker.distributed.group import Group
from trainwright_worker.distributed.placement import RankPlacement
from trainwright_worker.errors import DataError


def spec_of(dataset, task="classification"):
    return read_spec(
        {
            "model": {"name": "gpt" if task == "language-modeling" else "linear"},
            "dataset": dataset,
            "task": task,
            "training": {"epochs": 1, "globalBatchSize": 1},
        }
    )


def mark(dataset, root, task="classification"):
    found = fingerprint(read_source(spec_of(dataset, task), str(root), Scratch()))
    return Fingerprint.from_json(json.loads(json.dumps(found.to_json())))


def draw(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), shade, np.uint8)).save(path)


def write_texts(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))


TEXTS = {"a.jsonl": [("one", "x"), ("two", "y")], "b.jsonl": [("three", "x"), ("four", "y")]}
FOLDER = {"imageFolder": {"path": "images", "size": 4}}
CSV = {"csv": {"path": "t.csv", "target": "y"}}
LABELED = {"labeledText": {"path": "texts/*.jsonl"}}


def test_data_that_is_the_same_elsewhere_has_not_changed(tmp_path):
    for root in (tmp_path / "here", tmp_path / "there"):
        write_texts(root / "texts", TEXTS)
        (root / "t.csv").write_text("a,y\n1,u\n2,v\n3,u\n")
        for name in ("cat/1.png", "dog/2.png"):
            draw(root / "images" / name, 7)
            os.utime(root / "images" / name, (1, 1 if root.name == "here" else 2))
    for dataset in (FOLDER, CSV, LABELED, {"builtin": {"name": "iris"}}):
        assert mark(dataset, tmp_path / "there").find_changes(mark(dataset, tmp_path / "here")) == ""


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("1,u\n2,v\n4,u\n", "has other samples, or another order of samples"),
        ("2,v\n1,u\n3,u\n", "has other samples, or another order of samples"),
        ("1,u\n2,v\n", "has 2 samples instead of 3"),
    ],
)
def test_a_table_with_other_rows(tmp_path, rows, words):
    (tmp_path / "t.csv").write_text("a,y\n1,u\n2,v\n3,u\n")
    before = mark(CSV, tmp_path)
    (tmp_path / "t.csv").write_text("a,y\n" + rows)
    assert words in mark(CSV, tmp_path).find_changes(before)


@pytest.mark.parametrize("task", ["classification", "language-modeling"])
def test_files_of_texts(tmp_path, task):
    dataset = LABELED if task == "classification" else {"text": {"path": "texts/*.jsonl"}}
    write_texts(tmp_path / "texts", TEXTS)
    before = mark(dataset, tmp_path, task)
    write_texts(tmp_path / "texts", {"b.jsonl": [("three", "x"), ("five", "y")]})
    assert (
        mark(dataset, tmp_path, task).find_changes(before) == "b.jsonl has other samples, or another order of samples"
    )
    write_texts(tmp_path / "texts", {"b.jsonl": TEXTS["b.jsonl"], "c.jsonl": [("six", "x")]})
    assert "c.jsonl is new" in mark(dataset, tmp_path, task).find_changes(before)
    (tmp_path / "texts" / "c.jsonl").unlink()
    (tmp_path / "texts" / "a.jsonl").unlink()
    assert "a.jsonl is missing" in mark(dataset, tmp_path, task).find_changes(before)


def test_folders_of_images_of_which_one_took_the_place_of_another(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        draw(tmp_path / "images" / name, 7)
    before = mark(FOLDER, tmp_path)
    (tmp_path / "images/cat/2.png").rename(tmp_path / "images/cat/3.png")
    assert mark(FOLDER, tmp_path).find_changes(before) == "cat has other samples, or another order of samples"
    draw(tmp_path / "images/dog/4.png", 7)
    assert "dog has 2 samples instead of 1" in mark(FOLDER, tmp_path).find_changes(before)


def test_files_of_their_own_are_part_of_it(tmp_path):
    (tmp_path / "t.csv").write_text("a,y\n1,u\n2,v\n3,u\n")
    (tmp_path / "own.csv").write_text("a,y\n5,u\n")
    own = {"csv": CSV["csv"] | {"validationPath": "own.csv"}}
    before = mark(own, tmp_path)
    (tmp_path / "own.csv").write_text("a,y\n6,u\n")
    assert mark(own, tmp_path).find_changes(before).endswith("another order of samples (validation files)")


def test_many_files_are_few_pieces(tmp_path):
    write_texts(tmp_path / "texts", {f"{n:04}.jsonl": [(str(n), "xy"[n % 2])] for n in range(600)})
    before = mark(LABELED, tmp_path)
    assert len(before.parts["split"]) <= 256
    write_texts(tmp_path / "texts", {"0300.jsonl": [("no", "x")]})
    assert "0300.jsonl" in mark(LABELED, tmp_path).find_changes(before)


def test_images_and_frames_in_files_of_other_kinds(tmp_path):
    def save(shades):
        images = [Image.fromarray(np.full((4, 4), shade, np.uint8)) for shade in shades]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        rows = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0]}, features=features)
        shutil.rmtree(tmp_path / "saved", ignore_errors=True)
        rows.save_to_disk(tmp_path / "saved")

    saved = {"huggingface": {"path": "saved", "image": "image", "size": 4}}
    save([1, 2, 3])
    before = mark(saved, tmp_path)
    save([1, 2, 3])
    assert mark(saved, tmp_path).find_changes(before) == ""
    save([3, 2, 1])
    assert "another order of samples" in mark(saved, tmp_path).find_changes(before)

    spoken = {"labeledSequences": {"path": "s.jsonl"}}
    rows = [{"frames": [[float(n), 1.0]] * 4, "text": "ab"} for n in range(3)]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = mark(spoken, tmp_path, "transcription")
    rows[1]["frames"][2] = [9.0, 1.0]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "has other samples" in mark(spoken, tmp_path, "transcription").find_changes(before)


@pytest.fixture
def group():
    config = WorkerConfig(
        namespace="n", name="j", uid="u", spec=spec_of(CSV), rendezvous_port=1, checkpoint_root="/", data_root="/"
    )
    place = RankPlacement(worker=0, attempt=1, round=1, local_rank=0, local_size=1, rank=0, size=1)
    return Group(config, place, "", torch.device("cpu"))


def test_a_run_goes_on_with_the_same_data_alone(tmp_path, group):
    spec = spec_of(CSV)
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{n},{'uv'[n % 2]}\n" for n in range(20)))
    first = load(spec, str(tmp_path), group)
    saved = json.loads(json.dumps(first.measured.to_json()))
    assert torch.equal(load(spec, str(tmp_path), group, saved).splits.train.inputs, first.splits.train.inputs)
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{n},{'uv'[n % 2]}\n" for n in reversed(range(20))))
    with pytest.raises(
        DataError, match=r"spec.dataset: the data has changed since .*: t.csv has other samples"
    ) as caught:
        load(spec, str(tmp_path), group, saved)
    assert caught.value.hint == "restore the previous data, or start a new job"


def test_a_run_of_an_earlier_version_goes_on_with_its_own_split(tmp_path, group):
    spec = spec_of(CSV)
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{n},{'uv'[n > 15]}\n" for n in range(20)))
    first = load(spec, str(tmp_path), group)
    old = first.measured.to_json()
    del old["stratified"], old["fingerprint"]
    again = load(spec, str(tmp_path), group, old)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(spec.training.seed))
    held_out = round(spec.dataset.split.test * 20) + round(spec.dataset.split.validation * 20)
    rows = replace(again.measured, normalization=first.normalization).normalization
    kept = again.splits.train.inputs.double() * rows.deviation[0] + rows.mean[0]
    assert kept.flatten().round().tolist() == order[held_out:].tolist()
    assert not torch.equal(again.splits.train.inputs, first.splits.train.inputs)
    assert Measured.from_json(old).fingerprint is None
