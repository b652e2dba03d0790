import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch.distributed import HashStore

from trainwright_worker.distributed import group
from trainwright_worker.distributed.group import Group, choose_device, set_threads
from trainwright_worker.distributed.placement import RankPlacement
from trainwright_worker.errors import UserError

PLACE = RankPlacement(worker=0, attempt=1, round=1, local_rank=1, local_size=2, rank=1, size=2)


class Rank(Group):
    """A rank that has met the others by other means."""

    def __init__(self, rank, store):
        self.rank, self.size, self.store, self._waits = rank, 2, store, itertools.count()


class Watched:
    """A store in which something happens while somebody waits for the third time."""

    def __init__(self, store, happens):
        self.store, self.happens, self.waits = store, happens, 0
        self.check = store.check

    def wait(self, keys, timeout):
        self.waits += 1
        if self.waits == 3:
            self.happens()
        self.store.wait(keys, timeout)


def test_who_waits_for_rank_0_does_so_however_long_it_takes(monkeypatch):
    monkeypatch.setattr(group, "_POLL_INTERVAL", group.timedelta(milliseconds=1))
    store = HashStore()
    leader = Rank(0, store)
    watched = Watched(store, leader.wait_for_leader)
    peer = Rank(1, watched)
    peer.wait_for_leader()
    assert watched.waits == 3
    # The next time is another one.
    watched.waits = 0
    peer.wait_for_leader()
    assert watched.waits == 3


def test_a_process_without_a_gpu_of_its_own_is_a_mistake(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    with pytest.raises(UserError, match=r"spec.workers.processesPerWorker: 2, but the worker has 1 GPU\(s\)"):
        choose_device(PLACE)
    alone = replace(PLACE, local_rank=0, local_size=1)
    assert choose_device(alone) == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("environment", "local_size", "threads"),
    [
        ({}, 1, 8),
        ({}, 2, 4),
        ({"TRAINWRIGHT_SHARING_PROCESSES": "4"}, 2, 2),
        ({"TRAINWRIGHT_SHARING_PROCESSES": "40"}, 1, 1),
        ({"TRAINWRIGHT_SHARING_PROCESSES": "4", "OMP_NUM_THREADS": "3"}, 1, 3),
    ],
)
def test_cores_are_shared_and_only_the_training_thread_computes_with_many(
    monkeypatch, environment, local_size, threads
):
    for name in ("TRAINWRIGHT_SHARING_PROCESSES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(group, "count_cores", lambda: 8)
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(1) as training, ThreadPoolExecutor(1) as reader:
            training.submit(set_threads, replace(PLACE, local_rank=0, local_size=local_size)).result()
            in_the_background = reader.submit(torch.get_num_threads).result()
            assert (training.submit(torch.get_num_threads).result(), in_the_background) == (threads, 1)
    finally:
        torch.set_num_threads(before)
