"""Samples lead back to the file and the row they were read from."""

import torch

from trainwright_worker.data.origin import Origins


def test_samples_of_several_files_are_described_after_a_permutation():
    found = Origins.of_files([("a.csv", torch.tensor([2, 3])), ("b.csv", torch.tensor([2, 5]))])
    mixed = found.select(torch.tensor([3, 0, 2]))
    assert [mixed.describe(index) for index in range(len(mixed))] == [
        {"file": "b.csv", "row": 5},
        {"file": "a.csv", "row": 2},
        {"file": "b.csv", "row": 2},
    ]


def test_the_only_file_takes_no_memory_per_sample():
    found = Origins.of_file("a.csv", torch.arange(2, 1002))
    assert found.describe(999) == {"file": "a.csv", "row": 1001}
    assert found.file.untyped_storage().nbytes() == 4


def test_a_file_of_one_sample_has_no_rows():
    found = Origins(("a.txt", "b.txt"), torch.arange(2, dtype=torch.int32)).select(torch.tensor([1]))
    assert found.describe(0) == {"file": "b.txt"}
