"""Every source, from real files to the batches that a model sees."""

import bz2
import gzip
import io
import json
import os
import subprocess
import sys
from decimal import Decimal
from itertools import pairwise

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from corpora import write_bert, write_imdb, write_tokenizer
from PIL import Image
from pyarrow import parquet
from tokenizers import Tokenizer

from trainwright_worker.data.measured import Measured
from trainwright_worker.data.tokens import SPECIAL

from .conftest import picture, sentences, write_jsonl, write_tar

pytestmark = pytest.mark.local

LM = "language-modeling"


def texts_of(dataset, split=None):
    part = split or dataset.splits.train
    batch = part.take(torch.arange(len(part)))
    return [dataset.tokenizer.decode(ids[mask].tolist()) for ids, mask in zip(batch.input, batch.mask, strict=True)]


def write_images(folder, classes, count, form="PNG", **options):
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.{form.lower()}").write_bytes(picture(50 + 100 * label, form=form, **options))


def test_csv_with_files_of_their_own_compressed(open_data, tmp_path):
    for name, rows in (("train", "1,a\n2,b\n"), ("valid", "3,b\n"), ("test", "4,a\n")):
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(b"x,y\n" + rows.encode()))
    own = {"validationPath": "valid.csv.gz", "testPath": "test.csv.gz"}
    data = open_data({"csv": {"path": "train.csv.gz", "target": "y", **own}, "normalize": "none"})
    assert data.classes == ("a", "b")
    assert [part.inputs.tolist() for part in (data.splits.validation, data.splits.test)] == [[[3.0]], [[4.0]]]
    assert data.splits.validation.targets.tolist() == [1]


def test_parquet_of_several_files(open_data, tmp_path):
    for part in range(2):
        table = pa.table({"a": [1 + part, 3], "b": [0.5, 1.5], "y": ["u", "v"], "extra": ["x", "x"]})
        parquet.write_table(table, tmp_path / f"{part}.parquet")
    source = {"path": ".", "target": "y", "features": ["b", "a"]}
    data = open_data({"parquet": source, "normalize": "none"})
    assert sorted(data.splits.train.inputs.tolist()) == [[0.5, 1], [0.5, 2], [1.5, 3], [1.5, 3]]
    numbers = open_data({"parquet": {**source, "target": "a", "features": ["b"]}}, "regression")
    assert numbers.splits.train.targets.mean() == pytest.approx(0, abs=1e-6)
    assert numbers.normalization.target_mean == (2.25,)


def test_parquet_files_with_their_columns_in_another_order(open_data, tmp_path):
    for part, names in enumerate((("a", "b", "y"), ("y", "b", "a"))):
        values = {"a": [1.0, 2.0], "b": [10.0, 20.0], "y": ["u", "v"]}
        parquet.write_table(pa.table({name: values[name] for name in names}), tmp_path / f"{part}.parquet")
    data = open_data({"parquet": {"path": ".", "target": "y"}, "normalize": "none"})
    assert sorted(data.splits.train.inputs.tolist()) == [[1, 10], [1, 10], [2, 20], [2, 20]]
    assert data.splits.train.features == ("a", "b")


def test_whole_numbers_spell_the_same_classes_in_parquet_whatever_their_type(open_data, tmp_path):
    numbers = ([0, 1], [1.0, 0.0], [Decimal("0.00"), Decimal("1.00")], pa.array([1, 0], pa.int8()).dictionary_encode())
    for part, labels in enumerate(numbers):
        parquet.write_table(pa.table({"a": [1.0, 2.0], "y": labels}), tmp_path / f"{part}.parquet")
    data = open_data({"parquet": {"path": ".", "target": "y"}})
    assert (data.classes, len(data.splits.train)) == (("0", "1"), 8)


def test_an_index_of_pandas_is_left_out_of_parquet_unless_it_is_listed(open_data, tmp_path):
    rows = pd.DataFrame({"a": [1.0, 2, 3, 4], "y": ["u", "v"] * 2})
    rows.iloc[[2, 0, 3, 1]].to_parquet(tmp_path / "number.parquet")
    rows.set_index(pd.Index(range(4), name="customer")).to_parquet(tmp_path / "named.parquet", index=True)
    for file, name in (("number", "__index_level_0__"), ("named", "customer")):
        source = {"path": f"{file}.parquet", "target": "y"}
        splits = open_data({"parquet": source}).splits
        assert splits.train.features == ("a",)
        said = f"the column {name!r} is an index that pandas wrote, and is ignored; to use it as a feature, list it"
        assert splits.notes == (f"spec.dataset.parquet.features: {said}",)
        listed = open_data({"parquet": {**source, "features": ["a", name]}}).splits
        assert (listed.train.features, listed.notes) == (("a", name), ())


def test_times_are_told_apart_in_tables_of_any_kind(open_data, tmp_path):
    times = {"t": [1_700_000_000_000 + n for n in range(4)], "y": [1_700_000_000 + n for n in range(4)]}
    parquet.write_table(pa.table(times), tmp_path / "t.parquet")
    source = saved(tmp_path, train=times)
    for dataset in (
        {"parquet": {"path": "t.parquet", "target": "y"}},
        {"huggingface": {**source, "features": ["t"], "label": "y"}},
    ):
        train = open_data(dataset, "regression").splits.train
        for part in (train.inputs, train.targets):
            assert part.dtype == torch.float32
            assert sorted(part.flatten().tolist()) == pytest.approx([n / 1.25**0.5 for n in (-1.5, -0.5, 0.5, 1.5)])


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_an_image_folder_as_imagenet_has_it(open_data, tmp_path, form):
    write_images(tmp_path / "train", ("n02", "n01"), 3, form)
    write_images(tmp_path / "val", ("n01",), 2, form)
    data = open_data({"imageFolder": {"path": ".", "size": 16}, "normalize": "none"})
    assert data.classes == ("n01", "n02")
    assert (len(data.splits.train), len(data.splits.validation), data.splits.test) == (6, 2, None)
    assert data.splits.train.shape == (3, 16, 16)
    batch = data.splits.train.take(torch.arange(6))
    red = batch.input[:, 0].mean((1, 2))
    assert torch.allclose(red, torch.where(batch.target == 1, 50.0, 150.0), atol=4), "n02 was written first"


def test_a_folder_of_classes_alone_is_split_and_scaled(open_data, tmp_path):
    write_images(tmp_path, ("a", "b"), 10)
    split = {"validation": 0.2, "test": 0.1}
    data = open_data({"imageFolder": {"path": ".", "size": 8, "resize": 10, "grayscale": True}, "split": split})
    assert [len(part) for part in (data.splits.train, data.splits.validation, data.splits.test)] == [14, 4, 2]
    assert data.splits.train.shape == (1, 8, 8)
    pixels = data.splits.train.take(torch.arange(14)).input
    assert pixels.mean() == pytest.approx(0, abs=1e-3)
    assert pixels.std() == pytest.approx(1, abs=1e-2)


def test_scaling_to_the_size_is_what_torchvision_does(open_data, tmp_path):
    from torchvision.transforms import v2  # noqa: PLC0415 - takes seconds

    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "0.png").write_bytes(picture(9, size=(60, 45)))
    data = open_data({"imageFolder": {"path": ".", "size": 24, "resize": 30}, "normalize": "imagenet"})
    usual = v2.Compose(
        [
            *(v2.Resize(30), v2.CenterCrop(24), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    expected = usual(Image.open(tmp_path / "a" / "0.png"))
    assert torch.allclose(data.splits.train.take(torch.tensor([0])).input[0], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("Training", "Valid", "TESTING"), ("Train", "dev", "Test")],
)
def test_folders_of_splits_go_by_many_names_and_may_be_links(open_data, tmp_path, train, validation, test):
    for number, name in enumerate((train, validation, test)):
        for label in "ab":
            for row in range(number + 1):
                place = tmp_path / "full" / name / label
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{row}.png").write_bytes(picture(50 * number))
                (place / f"{row}.txt").write_text(f"text {row}")
    (tmp_path / "own" / train).mkdir(parents=True)
    for name in (validation, test):
        (tmp_path / "own" / name).symlink_to(tmp_path / "full" / name)
    for label in "ab":
        (tmp_path / "own" / train / label).symlink_to(tmp_path / "full" / train / label)
    for dataset in ({"imageFolder": {"path": "own", "size": 8}}, {"labeledText": {"path": "own"}}):
        splits = open_data(dataset).splits
        assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [2, 4, 6]


def test_image_files_of_any_name(open_data, tmp_path):
    write_images(tmp_path, ("a", "b"), 2)
    (tmp_path / "a" / "0.png").rename(tmp_path / "a" / "0.jfif")
    (tmp_path / "a" / "1.png").rename(tmp_path / "a" / os.fsdecode(b"\xfcber.png"))
    for name in ("a/x.heic", "b/y.heic", "b/labels"):
        (tmp_path / name).touch()
    data = open_data({"imageFolder": {"path": ".", "size": 8}, "normalize": "none"})
    red = data.splits.train.take(torch.arange(4)).input[:, 0].mean((1, 2))
    assert sorted(red.tolist()) == [50, 50, 150, 150]
    said = "3 files are ignored, because their extensions (.heic, none) are not image extensions"
    assert data.splits.notes == (f"spec.dataset.imageFolder.path: {said}",)


def test_imdb_reviews(open_data, tmp_path):
    write_imdb(tmp_path, 20)
    (tmp_path / "train" / "unsup").mkdir()
    (tmp_path / "train" / "unsup" / "0_0.txt").write_text("Nobody judged this.")
    data = open_data({"labeledText": {"path": "."}, "tokenizer": {"maxLength": 32, "lowercase": True}})
    assert data.classes == ("neg", "pos")
    assert (len(data.splits.train), len(data.splits.test)) == (20, 5)
    assert data.tokenizer.size < 40
    good = ("wonderful", "moving", "brilliant", "superb", "warm")
    for text, target in zip(texts_of(data), data.splits.train.targets.tolist(), strict=True):
        assert any(word in text.split() for word in good) == (target == 1)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "jsonl.bz2"])
def test_labelled_text_in_files(open_data, tmp_path, suffix):
    rows = [{"review": text, "stars": 1 + n % 3} for n, text in enumerate(sentences(12))]
    path = tmp_path / f"reviews.{suffix}"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if suffix == "csv":
        path.write_text("stars,review\n" + "".join(f'{row["stars"]},"{row["review"]}"\n' for row in rows))
    elif suffix == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_bytes(bz2.compress(lines.encode()) if suffix.endswith("bz2") else lines.encode())
    data = open_data({"labeledText": {"path": path.name, "textField": "review", "labelField": "stars"}})
    assert data.classes == ("1", "2", "3")
    found = dict(zip(texts_of(data), data.splits.train.targets.tolist(), strict=True))
    assert found == {row["review"]: row["stars"] - 1 for row in rows}


def test_a_vocabulary_is_learnt_from_the_training_split_alone(open_data, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"text": "seen words", "label": n} for n in range(2)])
    write_jsonl(tmp_path / "test.jsonl", [{"text": "seen nowhere", "label": 0}])
    data = open_data({"labeledText": {"path": "train.jsonl", "testPath": "test.jsonl"}})
    assert data.splits.test.take(torch.tensor([0])).input[0, :2].tolist() == [data.tokenizer.encode("seen")[0], 1]


@pytest.mark.parametrize("name", ["character", "byte", "bpe"])
def test_plain_text_is_cut_into_blocks_whose_end_is_held_out(open_data, tmp_path, name):
    lines = [f" = Heading {n} = \n the text with ζ goes on and on {n}\n" for n in range(200)]
    (tmp_path / "wiki.train.tokens").write_text("".join(lines))
    tokenizer = {"name": name, "maxLength": 16, "vocabularySize": 300}
    split = {"validation": 0.1, "test": 0.1}
    data = open_data({"text": {"path": "*.tokens"}, "tokenizer": tokenizer, "split": split}, "language-modeling")
    parts = (data.splits.train, data.splits.validation, data.splits.test)
    whole = "".join(data.tokenizer.decode(part.ids.tolist()) for part in parts)
    assert whole == "".join(lines), "each part goes on where the one before ends"
    assert [len(part.ids) / sum(len(other.ids) for other in parts) for part in parts] == pytest.approx(
        [0.8, 0.1, 0.1], abs=0.02
    )
    batch = data.splits.train.take(torch.tensor([3, 1]))
    assert batch.input.shape == batch.target.shape == (2, 16)


def test_files_of_plain_text_end_with_the_token_for_it_and_are_cut_into_tokens_as_one(open_data, tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("" if name == "b" else f"{name} " * 40)
    write_bert(tmp_path / "t", ["a c"])
    rules = json.loads((tmp_path / "t" / "tokenizer.json").read_text())
    rules["normalizer"] = {"type": "Prepend", "prepend": "c "}  # what Metaspace does with a space, visibly
    (tmp_path / "t" / "tokenizer.json").write_text(json.dumps(rules))
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps({"eos_token": "[SEP]"}))
    data = open_data({"text": {"path": "*.txt"}, "tokenizer": {"path": "t", "maxLength": 4}}, "language-modeling")
    ids = data.splits.train.ids.tolist()
    a, c = (data.tokenizer.encode(text)[-1] for text in "ac")
    assert ids == [c, *[a] * 40, data.tokenizer.end, c, *[c] * 40]


def test_texts_of_their_own_end_with_the_token_for_it(open_data, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "ab"}, {"text": "c"}])
    tokenizer = {"name": "character", "maxLength": 2}
    data = open_data({"text": {"path": "a.jsonl"}, "tokenizer": tokenizer}, "language-modeling")
    a, b, c = data.tokenizer.encode("abc")
    assert data.splits.train.ids.tolist() == [a, b, data.tokenizer.end, c, data.tokenizer.end]


def test_a_pretrained_tokenizer_adds_its_special_tokens_and_is_cut_around_them(open_data, tmp_path):
    write_bert(tmp_path / "bert", sentences(50))
    write_jsonl(tmp_path / "a.jsonl", [{"text": text, "label": n % 2} for n, text in enumerate(sentences(6))])
    source = {"labeledText": {"path": "a.jsonl"}}
    data = open_data({**source, "tokenizer": {"path": "bert", "maxLength": 5}})
    batch = data.splits.train.take(torch.arange(6))
    assert batch.input.shape == (6, 5)
    assert batch.input[:, 0].tolist() == [2] * 6, "[CLS]"
    assert batch.input[:, -1].tolist() == [3] * 6, "[SEP]"
    for name, place in (("hf:bert", "bert"), ("gru", "bert"), ("gru", "bert/model.safetensors")):
        by_model = open_data(source, model={"name": name, "pretrained": place})
        assert by_model.tokenizer.definition == data.tokenizer.definition


def test_weights_without_a_tokenizer_beside_them_leave_the_choice(open_data, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": text, "label": n % 2} for n, text in enumerate(sentences(6))])
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "weights.safetensors").touch()
    learnt = open_data({"labeledText": {"path": "a.jsonl"}}, model={"name": "gru", "pretrained": "weights"})
    assert "good" in learnt.tokenizer.tokens().values()


def test_a_tokenizer_may_know_more_tokens_than_the_one_beside_the_weights(open_data, tmp_path):
    write_tokenizer(tmp_path / "weights", "a film and its plot")
    (tmp_path / "longer").mkdir()
    longer = Tokenizer.from_file(str(tmp_path / "weights" / "tokenizer.json"))
    longer.add_special_tokens(["<pad>"])
    longer.save(str(tmp_path / "longer" / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("a film and its plot " * 9)
    model = {"name": "gru", "pretrained": "weights"}
    data = open_data({"text": {"path": "a.txt"}, "tokenizer": {"path": "longer", "maxLength": 4}}, LM, model=model)
    assert data.tokenizer.size == longer.get_vocab_size()


def test_words_of_a_small_text_are_learnt_whole(open_data, tmp_path):
    (tmp_path / "a.txt").write_text("extraordinary sentences " * 50)  # which is held out in chunks of one character
    data = open_data({"text": {"path": "a.txt"}, "tokenizer": {"name": "word", "maxLength": 4}}, LM)
    assert set(data.tokenizer.tokens().values()) == {*SPECIAL, "extraordinary", "sentences"}


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_long_text_in_a_csv_file(open_data, tmp_path, suffix):
    text = "word " * 40_000
    between = "," if suffix == "csv" else "\t"
    rows = [f'"{text}"{between}{label}\n' for label in "xyxy"]
    (tmp_path / f"a.{suffix}").write_text(between.join(("text", "label\n")) + "".join(rows))
    data = open_data({"labeledText": {"path": f"a.{suffix}"}, "tokenizer": {"maxLength": 50_000}})
    assert [len(words.split()) for words in texts_of(data)] == [40_000] * 4


def test_a_long_text_in_a_column_that_nobody_reads(open_data, tmp_path):
    (tmp_path / "a.csv").write_text("x,note,y\n" + "".join(f'{n},"{"word " * 40_000}",{n % 2}\n' for n in range(4)))
    data = open_data({"csv": {"path": "a.csv", "features": ["x"], "target": "y"}, "normalize": "none"})
    assert sorted(data.splits.train.inputs.tolist()) == [[0], [1], [2], [3]]


def test_a_tokenizer_goes_through_the_state_and_is_the_same_in_every_process(open_data, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(sentences(300)))
    spec = {"text": {"path": "a.txt"}, "tokenizer": {"name": "bpe", "maxLength": 8, "vocabularySize": 400}}
    data = open_data(spec, "language-modeling")
    again = Measured.from_json(json.loads(json.dumps(data.measured.to_json())))
    assert again == data.measured
    script = (
        "import sys; from trainwright.api.spec.preparation import TokenizerName, TokenizerSpec\n"
        "from trainwright_worker.data.tokens import learn\n"
        "texts = iter(open(sys.argv[1]).read().splitlines(keepends=True))\n"
        "print(learn(TokenizerSpec(vocabulary_size=400), TokenizerName('bpe'), texts).definition)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script, tmp_path / "a.txt"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    }
    assert len(found) == 1


def saved(tmp_path, **splits):
    datasets.disable_progress_bars()
    datasets.DatasetDict({name: datasets.Dataset.from_dict(rows) for name, rows in splits.items()}).save_to_disk(
        tmp_path / "saved"
    )
    return {"path": "saved"}


def test_a_saved_dataset_of_texts_keeps_its_splits(open_data, tmp_path):
    source = saved(
        tmp_path,
        train={"text": sentences(20), "label": [n % 2 for n in range(20)]},
        validation={"text": sentences(4), "label": [1, 0, 1, 0]},
    )
    data = open_data({"huggingface": {**source, "text": "text"}})
    assert (len(data.splits.train), len(data.splits.validation)) == (20, 4)
    assert texts_of(data, data.splits.validation) == sentences(4)
    assert data.splits.validation.targets.tolist() == [1, 0, 1, 0]
    model = open_data(
        {"huggingface": {**source, "text": "text"}, "tokenizer": {"name": "word", "maxLength": 4}}, "language-modeling"
    )
    assert data.tokenizer.end in model.splits.train.ids.tolist()


def test_blank_texts_are_left_out_of_a_language_model_and_counted(open_data, tmp_path):
    rows = ["", "a b\n", " \n", "c d"]  # as WikiText has them
    tokens = {"tokenizer": {"name": "word", "maxLength": 2}}
    source = saved(tmp_path, train={"text": rows}, test={"text": ["", "c d"]})
    write_jsonl(tmp_path / "a.jsonl", [{"text": row} for row in rows])
    for dataset, field, origin, more in (
        ({"huggingface": {**source, "text": "text"}}, "huggingface.text", "the training split of saved", 1),
        ({"text": {"path": "a.jsonl"}}, "text", "a.jsonl", 0),
    ):
        data = open_data({**dataset, **tokens}, "language-modeling")
        assert data.tokenizer.decode(data.splits.train.ids.tolist()).split() == ["a", "b", "c", "d"]
        said = f"spec.dataset.{field}: 2 of 4 texts in {origin} are blank and left out"
        assert data.splits.notes[0].replace("text.path", "text") == said
        assert len(data.splits.notes) == 1 + more


def test_a_saved_dataset_of_images_and_one_of_numbers(open_data, tmp_path):
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["low", "high"]))
    rows = {"image": [Image.open(io.BytesIO(picture(100 * (n % 2)))) for n in range(6)]}
    rows["label"] = [n % 2 for n in range(6)]
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "images")
    data = open_data({"huggingface": {"path": "images", "image": "image", "size": 8}, "normalize": "none"})
    assert data.classes == ("low", "high")
    batch = data.splits.train.take(torch.arange(6))
    assert torch.equal(batch.input[:, 0].mean((1, 2)) > 50, batch.target == 1)
    source = saved(tmp_path, train={"a": [[1.0, 2.0], [3.0, 4.0]], "b": [5, 6], "price": [0.5, 1.5]})
    looked_at = datasets.load_from_disk(tmp_path / "images").with_format("torch", columns=["label"])
    looked_at.save_to_disk(tmp_path / "tensors")
    again = open_data({"huggingface": {"path": "tensors", "image": "image", "size": 8}, "normalize": "none"})
    assert torch.equal(again.splits.train.take(torch.arange(6)).input, batch.input)
    numbers = open_data(
        {"huggingface": {**source, "features": ["b", "a"], "label": "price"}, "normalize": "none"}, "regression"
    )
    assert sorted(numbers.splits.train.inputs.tolist()) == [[5, 1, 2], [6, 3, 4]]


def test_shards_are_read_at_random_by_their_index(open_data, tmp_path):
    for shard in range(3):
        members = []
        for number in range(4):
            colour = 10 * (4 * shard + number)
            members += [(f"x/{number}.cls", str(number % 2).encode()), (f"x/{number}.png", picture(colour))]
        write_tar(tmp_path / f"s-{shard:02}.tar", [*members, ("readme.txt", b"not a sample")])
    data = open_data({"webdataset": {"path": "s-{00..02}.tar", "size": 20}, "normalize": "none"})
    assert data.classes == ("0", "1")
    batch = data.splits.train.take(torch.arange(12))
    assert sorted(batch.input[:, 0, 0, 0].tolist()) == [10.0 * n for n in range(12)]
    assert torch.equal(batch.input[:, 0, 0, 0] // 10 % 2, batch.target.float())


def test_images_whose_names_have_another_dot_are_left_out_of_shards_and_said(open_data, tmp_path):
    whole = [("a.png", picture()), ("a.cls", b"0"), ("c.png", picture()), ("c.cls", b"1"), ("c.seg.png", picture())]
    write_tar(tmp_path / "s.tar", [*whole, ("d/b.v2.png", picture()), ("d/b.v2.cls", b"1"), ("d/b.v3.png", picture())])
    splits = open_data({"webdataset": {"path": "s.tar", "size": 8}}).splits
    assert len(splits.train) == 2
    assert splits.notes[0].startswith(
        "spec.dataset.webdataset.path: 2 images, such as 'd/b.v2.png', are ignored: files with"
    )


def test_sequences_with_their_transcripts(open_data, tmp_path):
    rows = [{"frames": np.random.default_rng(n).normal(3, 2, (6 + n, 2)).tolist(), "text": "ca"} for n in range(20)]
    write_jsonl(tmp_path / "s.jsonl", rows)
    split = {"validation": 0.1, "test": 0}
    data = open_data({"labeledSequences": {"path": "s.jsonl"}, "split": split}, "transcription")
    assert data.classes == ("a", "c")
    assert (data.splits.train.shape, len(data.classes)) == ((25, 2), 2)
    batch = data.splits.train.take(torch.arange(18))
    assert batch.target.tolist() == [[2, 1]] * 18
    real = batch.input[batch.mask]
    assert torch.allclose(real.mean(0), torch.zeros(2), atol=1e-4)
    assert torch.allclose(real.std(0, correction=0), torch.ones(2), atol=1e-4)
    lengths = batch.mask.sum(1)
    assert all(later or not earlier for row in batch.mask.flip(1) for earlier, later in pairwise(row.tolist()))
    assert lengths.min() >= 6
