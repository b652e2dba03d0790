"""GPUs of this machine, given to workers one by one."""

import pytest

from trainwright.api.job import read_spec
from trainwright.cluster.local.gpus import assign, computes_bf16, count_gpus


def a_spec(workers, processes):
    return read_spec(
        {
            "model": {"name": "linear"},
            "dataset": {"builtin": {"name": "digits"}},
            "training": {"epochs": 1},
            "workers": {"count": workers, "processesPerWorker": processes},
        }
    )


@pytest.mark.parametrize(
    ("gpus", "workers", "processes", "shares"),
    [
        (0, 2, 1, [None, None]),
        (1, 1, 1, ["0"]),
        (1, 2, 1, ["", ""]),
        (2, 2, 1, ["0", "1"]),
        (12, 2, 4, ["0,1,2,3", "4,5,6,7"]),
    ],
)
def test_each_process_has_a_gpu_or_none_has(tmp_path, gpus, workers, processes, shares):
    for name in [*(f"nvidia{number}" for number in range(gpus)), "nvidiactl", "nvidia-uvm"]:
        (tmp_path / name).touch()
    spec = a_spec(workers, processes)
    assert [assign(spec, i, {}, tmp_path).get("CUDA_VISIBLE_DEVICES") for i in range(workers)] == shares


def test_what_the_caller_sees_is_all_there_is(tmp_path):
    assert count_gpus({"CUDA_VISIBLE_DEVICES": "5,7"}, tmp_path) == 2
    assert count_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == 0
    assert assign(a_spec(1, 1), 0, {"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == {"CUDA_VISIBLE_DEVICES": ""}
    assert assign(a_spec(2, 1), 1, {"CUDA_VISIBLE_DEVICES": "5,7"}, tmp_path) == {"CUDA_VISIBLE_DEVICES": "7"}


@pytest.mark.parametrize(
    ("flags", "can"), [("fpu avx2 avx512f", False), ("fpu avx512_bf16", True), ("asimd bf16", True)]
)
def test_a_cpu_says_whether_it_computes_in_bfloat16(tmp_path, flags, can):
    (tmp_path / "cpuinfo").write_text(f"model name : some CPU\nflags\t\t: {flags}\n")
    assert computes_bf16(tmp_path / "cpuinfo") is can
    assert computes_bf16(tmp_path / "no-such-file"), "where nothing tells, nothing is claimed"
