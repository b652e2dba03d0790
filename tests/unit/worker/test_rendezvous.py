"""The rendezvous with real stores, each worker a thread."""

import json
import socket
import threading
import time

import pytest

from trainwright.api.job import read_spec
from trainwright.api.worker import WorkerConfig
from trainwright_worker.agent import rendezvous, store
from trainwright_worker.agent.rendezvous import FixedRendezvous, RendezvousLostError, StoppedError
from trainwright_worker.errors import InfrastructureError


@pytest.fixture(autouse=True)
def in_process_server(monkeypatch):
    """Serve from this process: the agent may fork since it has no threads, these tests have many."""
    monkeypatch.setattr(rendezvous, "StoreServer", lambda port: store._open("localhost", port, serve=True))


def config_of(workers, timeout=30):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spec = {
        "model": {"name": "linear"},
        "dataset": {"builtin": {"name": "iris"}},
        "training": {"epochs": 1, "globalBatchSize": workers},
        "workers": {"count": workers},
    }
    raw = {
        "namespace": "n",
        "name": "job",
        "uid": "u",
        "spec": read_spec(spec).to_wire(),
        "rendezvousPort": port,
        "rendezvousTimeoutSeconds": timeout,
        "checkpointRoot": "/tmp",  # noqa: S108 - never touched
        "dataRoot": "/tmp",  # noqa: S108
    }
    return WorkerConfig.model_validate_json(json.dumps(raw))


class Member:
    """One worker that joins in a thread."""

    def __init__(self, config, index, attempt=1):
        self.stop = threading.Event()
        self.handler = FixedRendezvous(config, index, attempt, "127.0.0.1", self.stop.is_set)
        self.thread = None

    def join(self):
        self.outcome = None
        self.thread = threading.Thread(target=self._join, daemon=True)
        self.thread.start()
        return self

    def _join(self):
        try:
            self.outcome = self.handler.next_rendezvous()
        except (RendezvousLostError, StoppedError, InfrastructureError) as error:
            self.outcome = error

    def result(self, seconds=20):
        self.thread.join(seconds)
        assert not self.thread.is_alive()
        return self.outcome


def rounds(members):
    return [member.handler.round for member in members]


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_workers_come_in_any_order_and_keep_their_indices():
    config = config_of(3)
    late = [Member(config, index).join() for index in (2, 1)]
    members = [Member(config, 0).join(), *late]
    places = [member.result() for member in members]
    assert [(place.rank, place.world_size) for place in places] == [(0, 3), (2, 3), (1, 3)]
    assert len(set(rounds(members))) == 1


def test_one_restart_takes_everyone_into_the_next_round():
    config = config_of(3)
    members = [Member(config, index).join() for index in range(3)]
    [member.result() for member in members]
    first = members[0].handler.round
    members[2].join()
    wait_for(lambda: all(member.handler.num_nodes_waiting() for member in members[:2]))
    for member in members[:2]:
        member.join()
    [member.result() for member in members]
    assert rounds(members) == [first + 1] * 3
    assert [member.handler.num_nodes_waiting() for member in members] == [0, 0, 0]


def test_a_replacement_joins_although_its_predecessor_never_left():
    config = config_of(2)
    members = [Member(config, index).join() for index in range(2)]
    [member.result() for member in members]
    replacement = Member(config, 1, attempt=2).join()
    wait_for(members[0].handler.num_nodes_waiting)
    members[0].join()
    assert replacement.result().rank == 1
    assert members[0].result().rank == 0
    lingering = members[1].join().result()
    assert "worker 1 was replaced by a pod of attempt 2" in str(lingering)
    assert rounds([members[0], replacement]) == [2, 2]


def test_missing_workers_are_named_after_the_timeout():
    member = Member(config_of(3, timeout=1), 0).join()
    outcome = member.result()
    assert isinstance(outcome, RendezvousLostError)
    assert "rendezvous of 3 workers: worker 1, 2 did not come within 1 s" in str(outcome)


def test_without_worker_0_nobody_is_reached():
    outcome = Member(config_of(2, timeout=1), 1).join().result()
    assert "could not reach the rendezvous at 127.0.0.1" in str(outcome)


@pytest.mark.parametrize("index", [0, 1])
def test_a_waiting_worker_can_be_stopped(index):
    member = Member(config_of(2), index).join()
    member.stop.set()
    assert isinstance(member.result(), StoppedError)


def test_worker_0_opens_a_new_round_without_a_worker_that_fell_silent(monkeypatch):
    monkeypatch.setattr(rendezvous, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(rendezvous, "LOST_AFTER_BEATS", 5)
    config = config_of(2)
    members = [Member(config, index).join() for index in range(2)]
    [member.result() for member in members]
    alive = time.monotonic() + 0.5
    while time.monotonic() < alive:
        assert [member.handler.num_nodes_waiting() for member in members] == [0, 0]
        time.sleep(0.005)
    wait_for(members[0].handler.num_nodes_waiting)  # Worker 1 no longer calls, so it no longer beats.


def test_worker_0_leaves_last():
    config = config_of(2)
    members = [Member(config, index).join() for index in range(2)]
    [member.result() for member in members]
    leaving = threading.Thread(target=members[0].handler.leave, args=(20,))
    leaving.start()
    leaving.join(0.1)
    assert leaving.is_alive()
    members[1].handler.leave(20)
    leaving.join(20)
    assert not leaving.is_alive()
