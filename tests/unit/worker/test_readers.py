import gzip

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

from trainwright.api.job import read_spec
from trainwright.api.spec.sources import BuiltinData, BuiltinName
from trainwright_worker.data.builtin import read_builtin
from trainwright_worker.data.dataset import measure, process, read
from trainwright_worker.data.given import samples_to_predict
from trainwright_worker.errors import DataError, UserError

CSV = {"csv": {"path": "points.csv", "target": "y"}}


def spec_of(dataset, task="classification", **changes):
    return read_spec(
        {
            "model": {"name": "linear"},
            "dataset": {"split": {"validation": 0, "test": 0}, **dataset},
            "task": task,
            "training": {"epochs": 1, "globalBatchSize": 1},
            **changes,
        }
    )


def write_csv(folder, text):
    (folder / "points.csv").write_text(text, encoding="utf-8")


def write_idx(folder, images, labels, suffix="", *, compress=False):
    header = np.array([2051, *images.shape], dtype=">u4").tobytes()
    contents = {
        f"images{suffix}": header + images.tobytes(),
        f"labels{suffix}": np.array([2049, len(labels)], dtype=">u4").tobytes() + labels.tobytes(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(gzip.compress(content) if compress else content)


IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([2, 0, 1], dtype=np.uint8)
IDX = {"idx": {"images": "images", "labels": "labels"}}


def by_first_value(samples):
    order = samples.inputs.flatten(1)[:, 0].argsort()
    return samples.inputs[order], samples.targets[order]


def test_csv_reads_numbers_and_class_names(tmp_path):
    write_csv(tmp_path, "a,y,b\n1,yes,2\n\n3,no,4.5\n")
    splits, classes = read(spec_of(CSV), str(tmp_path))
    inputs, targets = by_first_value(splits.train)
    assert classes == ("no", "yes")
    assert inputs.tolist() == [[1, 2], [3, 4.5]]
    assert targets.tolist() == [1, 0]


def test_csv_orders_whole_number_classes_as_numbers(tmp_path):
    write_csv(tmp_path, "a,y\n1,10\n2,9\n3,2\n")
    assert read(spec_of(CSV), str(tmp_path))[1] == ("2", "9", "10")


def test_csv_reads_a_regression_with_chosen_columns_and_delimiter(tmp_path):
    write_csv(tmp_path, "\ufeffa;b;y\n1;2;0.5\n")
    dataset = {"csv": {"path": "points.csv", "target": "y", "features": ["b"], "delimiter": ";"}}
    splits, classes = read(spec_of(dataset, task="regression"), str(tmp_path))
    assert classes is None
    assert splits.train.inputs.tolist() == [[2]]
    assert splits.train.targets.tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("text", "dataset", "words"),
    [
        ("a,b\n1,2\n", CSV, "spec.dataset.csv.target: .* has no column 'y'; it has a, b"),
        (
            "a,y\n1,2\n",
            {"csv": {"path": "points.csv", "target": "y", "features": ["z"]}},
            "spec.dataset.csv.features: .* has no column 'z'",
        ),
        (
            "a,y\n1,0\n\nx,1\n",
            CSV,
            "column 'a' must hold finite numbers of 32 bits, but holds 'x' in line 4 of .*points.csv",
        ),
        (
            "a,y\n1,0\n,1\n",
            CSV,
            "column 'a' must hold finite numbers of 32 bits, but holds '' in line 3 of .*points.csv",
        ),
        (
            "a,y\ninf,0\n",
            CSV,
            "column 'a' must hold finite numbers of 32 bits, but holds 'inf' in line 2 of .*points.csv",
        ),
        (
            "a,y\n1,0\n-1e39,1\n",
            CSV,
            "column 'a' must hold finite numbers of 32 bits, but holds '-1e39' in line 3 of .*points.csv",
        ),
        ("a,y\n1,0\n1\n", CSV, "line 3 of .* has 1 values, but the header has 2"),
        ("a,y\n", CSV, "points.csv has no rows"),
        ("y\n1\n", CSV, "no column besides the target"),
        ("", CSV, "has no column 'y'"),
        (
            'a,y\n1,0\n2,"x\n3,0\n4,1\n',
            CSV,
            "spec.dataset.csv.path: cannot read .* from line 3 on as UTF-8 CSV: unexpected end of data",
        ),
    ],
)
def test_csv_mistakes_name_the_place(tmp_path, text, dataset, words):
    write_csv(tmp_path, text)
    with pytest.raises(DataError, match=words):
        read(spec_of(dataset), str(tmp_path))


def test_a_target_that_is_infinite_in_32_bits_is_refused(tmp_path):
    write_csv(tmp_path, "a,y\n1,3e38\n2,1e39\n")
    with pytest.raises(
        DataError, match=r"column 'y' must hold finite numbers of 32 bits, but holds '1e39' in line 3 of"
    ):
        read(spec_of(CSV, task="regression"), str(tmp_path))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("1,x\n2, \n", "spec.dataset.csv.target: column 'y' must hold a target in every row, but holds ' ' in line 3"),
        (
            "1,x\n2,NaN\n",
            "spec.dataset.csv.target: column 'y' must hold a target in every row, but holds 'NaN' in line 3",
        ),
        ("1,2.5\n2,3\n", "spec.dataset.csv.target: column 'y' has 2 different numbers, such as 2.5, which are not cl"),
        ("1,x\n2,x\n", "spec.dataset: all samples have the same class, 'x'"),
        (
            "".join(f"1,{n}\n" for n in range(20)),
            "spec.dataset: each of the 20 samples has a different class, such as '0'",
        ),
        (
            "".join(f"1,x{n}\n" for n in range(20)),
            "spec.dataset: each of the 20 samples has a different class, such as 'x0'",
        ),
    ],
)
def test_what_spells_no_class_is_refused(tmp_path, rows, words):
    write_csv(tmp_path, f"a,y\n{rows}")
    with pytest.raises(DataError, match=words):
        read(spec_of(CSV), str(tmp_path))


@pytest.mark.parametrize("header", ["a,a,y", "a,y,y"])
def test_a_column_that_is_there_twice_is_refused_where_it_is_used(tmp_path, header):
    write_csv(tmp_path, f"{header}\n1,2,3\n4,5,6\n")
    with pytest.raises(DataError, match=r"spec.dataset.csv.path: .*points.csv has 2 columns named '[ay]'"):
        read(spec_of(CSV), str(tmp_path))


def test_whole_numbers_of_one_sample_each_are_doubtful_classes(tmp_path):
    write_csv(tmp_path, "a,y\n" + "".join(f"{row},{1000 + row}\n" for row in range(10)) + "1,1000\n")
    splits, _ = read(spec_of(CSV), str(tmp_path))
    assert splits.notes == ("spec.dataset: 9 of 10 classes have only one sample; numbers need task: regression",)
    write_csv(tmp_path, "a,y\n" + "".join(f"{row},{row % 2 + 0.0}\n" for row in range(10)))
    splits, classes = read(spec_of(CSV), str(tmp_path))
    assert (splits.notes, classes) == ((), ("0.0", "1.0"))


def test_a_column_without_a_name_is_left_out_and_said(tmp_path):
    write_csv(tmp_path, ",a,y\n0,5,u\n1,6,v\n2,7,u\n3,8,v\n")
    splits, _ = read(spec_of(CSV), str(tmp_path))
    assert splits.train.features == ("a",)
    assert [note.partition(": ")[0] for note in splits.notes] == ["spec.dataset.csv.features"]
    assert read(spec_of({"csv": {**CSV["csv"], "features": ["a"]}}), str(tmp_path))[0].notes == ()


def test_times_in_seconds_are_told_apart(tmp_path):
    write_csv(tmp_path, "t,y\n" + "".join(f"{1_700_000_000 + row},{1_700_000_000 + row}\n" for row in range(4)))
    spec = spec_of(CSV, task="regression")
    splits, classes = read(spec, str(tmp_path))
    data = process(spec, splits, measure(spec, splits, classes, ""))
    inputs, targets = data.splits.train.inputs, data.splits.train.targets
    assert inputs.dtype == targets.dtype == torch.float32
    assert len(inputs.unique()) == len(targets.unique()) == 4
    asked = data.batch_of_rows([[1_700_000_000.0], [1_700_000_003.0]]).input
    assert asked.flatten().tolist() == [inputs.min(), inputs.max()]


def test_a_file_that_is_not_text_is_a_data_error(tmp_path):
    (tmp_path / "points.csv").write_bytes(b"a,y\n\xff\xfe\x00,1\n")
    with pytest.raises(DataError, match="UTF-8"):
        read(spec_of(CSV), str(tmp_path))


@pytest.mark.parametrize("path", ["*.csv", "."])
def test_a_csv_is_one_file(tmp_path, path):
    write_csv(tmp_path, "a,y\n1,x\n2,y\n")
    with pytest.raises(DataError) as caught:
        read(spec_of({"csv": {"path": path, "target": "y"}}), str(tmp_path))
    assert caught.value.message == f"spec.dataset.csv.path: csv takes one file, not {path}"


def test_a_missing_file_says_where_it_looked(tmp_path):
    with pytest.raises(DataError, match=f"points.csv does not exist .looked at {tmp_path}/points.csv"):
        read(spec_of(CSV), str(tmp_path))


@pytest.mark.parametrize("compress", [False, True])
def test_idx_reads_plain_and_gzip(tmp_path, compress):
    write_idx(tmp_path, IMAGES, LABELS, compress=compress)
    splits, classes = read(spec_of(IDX), str(tmp_path))
    inputs, targets = by_first_value(splits.train)
    assert classes == ("0", "1", "2")
    assert torch.equal(inputs[:, 0], torch.from_numpy(IMAGES).float())
    assert targets.tolist() == [2, 0, 1]


def test_idx_test_files_become_the_test_split(tmp_path):
    write_idx(tmp_path, IMAGES, LABELS)
    write_idx(tmp_path, IMAGES[:1], np.array([4], dtype=np.uint8), suffix="-test")
    dataset = {"idx": {**IDX["idx"], "testImages": "images-test", "testLabels": "labels-test"}}
    splits, classes = read(spec_of(dataset), str(tmp_path))
    assert len(splits.test) == 1
    assert len(splits.train) == 3
    assert len(classes) == 5


def test_idx_mistakes_are_data_errors(tmp_path):
    write_idx(tmp_path, IMAGES, LABELS)
    swapped = {"idx": {"images": "labels", "labels": "images"}}
    with pytest.raises(DataError, match="begins with the number 2049, but an idx file of this kind begins with 2051"):
        read(spec_of(swapped), str(tmp_path))
    whole = (tmp_path / "images").read_bytes()
    (tmp_path / "images").write_bytes(whole[:-1])
    with pytest.raises(DataError, match="has 75 bytes, but 76 according to its header"):
        read(spec_of(IDX), str(tmp_path))
    (tmp_path / "images").write_bytes(b"")
    with pytest.raises(DataError, match="begins with the number 0"):
        read(spec_of(IDX), str(tmp_path))
    (tmp_path / "images").write_bytes(gzip.compress(whole)[:-9])
    with pytest.raises(DataError, match="cannot read"):
        read(spec_of(IDX), str(tmp_path))
    write_idx(tmp_path, IMAGES, LABELS[:2])
    with pytest.raises(DataError, match="2 labels in labels for 3 images"):
        read(spec_of(IDX), str(tmp_path))


def write_cifar(folder, label=3):
    record = np.zeros(3073, dtype=np.uint8)
    record[0], record[1], record[1025] = label, 10, 20
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        (folder / f"{name}.bin").write_bytes(record.tobytes() * 2)


def test_cifar10_reads_six_files(tmp_path):
    write_cifar(tmp_path)
    splits, classes = read(spec_of({"cifar10": {"path": str(tmp_path)}}), "/nowhere")
    assert splits.train.inputs.shape == (10, 3, 32, 32)
    assert splits.train.inputs[0, :, 0, 0].tolist() == [10, 20, 0]
    assert len(splits.test) == 2
    assert classes[int(splits.test.targets[0])] == "cat"


def test_cifar10_mistakes_are_data_errors(tmp_path):
    dataset = {"cifar10": {"path": str(tmp_path)}}
    write_cifar(tmp_path, label=10)
    with pytest.raises(DataError, match="contains the label 10"):
        read(spec_of(dataset), "")
    write_cifar(tmp_path)
    (tmp_path / "data_batch_2.bin").write_bytes(b"short")
    with pytest.raises(DataError, match="not a multiple of 3073"):
        read(spec_of(dataset), "")
    (tmp_path / "data_batch_1.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_1.bin does not exist"):
        read(spec_of(dataset), "")


@pytest.mark.parametrize(
    ("name", "load"),
    [("digits", load_digits), ("iris", load_iris), ("wine", load_wine), ("breast-cancer", load_breast_cancer)],
)
def test_builtin_classes_are_as_scikit_learn_reads_them(name, load):
    table, known = read_builtin(BuiltinData(name=BuiltinName(name))), load()
    samples = table.samples
    assert torch.equal(samples.inputs.flatten(1), torch.from_numpy(known.data).float())
    assert samples.targets.tolist() == known.target.tolist()
    assert samples.features == tuple(known.feature_names)
    assert table.classes == tuple(str(target) for target in known.target_names)
    assert samples.shape == ((1, 8, 8) if name == "digits" else known.data.shape[1:])


def test_builtin_regression_keeps_its_units():
    table, known = read_builtin(BuiltinData(name=BuiltinName.DIABETES)), load_diabetes(scaled=False)
    assert table.classes is None
    assert torch.equal(table.samples.inputs, torch.from_numpy(known.data).float())
    assert table.samples.targets.flatten().tolist() == known.target.tolist()
    assert table.samples.features == tuple(known.feature_names)


def test_synthetic_data_is_a_function_of_the_seed():
    line = {"synthetic": {"kind": "line", "samples": 500, "noise": 0.1}}
    first, again = (read(spec_of(line, task="regression"), "")[0].train for _ in range(2))
    assert torch.equal(first.inputs, again.inputs)
    rest = first.targets - (2 * first.inputs + 1)
    assert 0.08 < rest.std() < 0.12
    clusters = {"synthetic": {"kind": "clusters", "samples": 90, "features": 4, "classes": 3}}
    splits, classes = read(spec_of(clusters), "")
    assert splits.train.inputs.shape == (90, 4)
    assert classes == ("0", "1", "2")


def test_predicting_a_split_that_is_empty_is_a_user_error():
    spec = spec_of({"builtin": {"name": "iris"}}, prediction={"split": "test"})
    splits, classes = read(spec, "")
    data = process(spec, splits, measure(spec, splits, classes, ""))
    with pytest.raises(UserError, match=r"spec.prediction.split: test, but spec.dataset.split.test holds out no"):
        samples_to_predict(spec.prediction, data)
