"""The rendezvous with real stores, each worker a thread."""

import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from trainwright.api.job import read_spec
from trainwright.api.worker import WorkerConfig
from trainwright_worker.agent import heartbeats, membership, rendezvous
from trainwright_worker.agent.rendezvous import NotNeededError, NumberedRendezvous, RendezvousLostError, StoppedError
from trainwright_worker.distributed import store
from trainwright_worker.errors import InfrastructureError


@pytest.fixture(autouse=True)
def in_process_server(monkeypatch):
    """Serve from this process: the agent may fork since it has no threads, these tests have many."""
    monkeypatch.setattr(rendezvous, "StoreServer", lambda port: store._open("localhost", port, serve=True))


def beat_faster(monkeypatch):
    monkeypatch.setattr(rendezvous, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(heartbeats, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(heartbeats, "LOST_AFTER_HEARTBEATS", 5)


def config_of(workers, least=None):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spec = {
        "model": {"name": "linear"},
        "dataset": {"builtin": {"name": "iris"}},
        "training": {"epochs": 1, "globalBatchSize": workers},
        "workers": {"count": workers, "minCount": least},
    }
    raw = {
        "namespace": "n",
        "name": "job",
        "uid": "u",
        "spec": read_spec(spec).to_wire(),
        "rendezvousPort": port,
        "rendezvousPatienceSeconds": 0.4,
        "checkpointRoot": "/tmp",  # noqa: S108 - never touched
        "dataRoot": "/tmp",  # noqa: S108
    }
    return WorkerConfig.model_validate_json(json.dumps(raw))


class Member:
    """One worker that joins in a thread."""

    def __init__(self, config, index, attempt=1):
        self.stop = threading.Event()
        self.handler = NumberedRendezvous(config, index, attempt, "127.0.0.1", self.stop.is_set)
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


@pytest.fixture
def long_waits(monkeypatch):
    """Let a second of waiting be a day, as the rendezvous sees it."""
    clock = SimpleNamespace(**{name: getattr(time, name) for name in ("sleep", "monotonic_ns")})
    clock.monotonic = lambda: time.monotonic() * 86_400
    monkeypatch.setattr(rendezvous, "time", clock)
    return clock


def test_workers_wait_for_each_other_without_end_and_say_for_whom(long_waits, capsys):
    config = config_of(3)
    members = [Member(config, index).join() for index in (0, 1)]
    wait_for(lambda: "waiting for worker 2 to join round 1" in capsys.readouterr().out)
    members.append(Member(config, 2).join())
    assert [member.result().rank for member in members] == [0, 1, 2]


def test_worker_0_is_waited_for_without_end(long_waits, capsys):
    config = config_of(2)
    early = Member(config, 1).join()
    wait_for(lambda: "waiting for worker 0 at 127.0.0.1" in capsys.readouterr().out)
    leader = Member(config, 0).join()
    assert [leader.result().rank, early.result().rank] == [0, 1]


def test_a_port_that_is_taken_is_not_waited_for_without_end(long_waits):
    config = config_of(2)
    with socket.create_server(("127.0.0.1", config.rendezvous_port), reuse_port=False):
        outcome = Member(config, 0).join().result()
    assert isinstance(outcome, RendezvousLostError)
    assert "could not host the rendezvous at port" in str(outcome)


def test_the_others_say_that_worker_0_does_not_complete_their_round(monkeypatch):
    beat_faster(monkeypatch)
    config = config_of(3)
    frozen = Member(config, 0).join()
    wait_for(lambda: frozen.handler.round == 1)
    frozen.stop.set()
    assert isinstance(frozen.result(), StoppedError)
    told = []
    witness = Member(config, 1)
    monkeypatch.setattr(
        witness.handler._wait_reporter, "report_missing", lambda _, present, __: told.append(list(present))
    )
    witness.join()
    wait_for(lambda: [1] in told)
    assert told[0] == [0, 1], "it has only just begun to look"
    witness.stop.set()
    witness.result()


@pytest.mark.parametrize("index", [0, 1])
def test_a_waiting_worker_can_be_stopped(index):
    member = Member(config_of(2), index).join()
    member.stop.set()
    assert isinstance(member.result(), StoppedError)


def test_worker_0_opens_a_new_round_without_a_worker_that_fell_silent(monkeypatch):
    beat_faster(monkeypatch)
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


class Agent:
    """A worker that joins every round it is told of, as torch's agent does, and trains for nothing in between."""

    def __init__(self, config, index, attempt=1):
        self.over = threading.Event()
        self.silent = threading.Event()
        self.outcome = None
        self.rounds = []
        self.grown = []
        self.handler = NumberedRendezvous(config, index, attempt, "127.0.0.1", self.over.is_set)
        self.thread = threading.Thread(target=self._live, daemon=True)
        self.thread.start()

    def _live(self):
        try:
            while not self.over.is_set():
                info = self.handler.next_rendezvous()
                assert info.world_size == len(self.handler.members)
                assert self.handler.members[info.rank] == self.handler._index
                self.rounds.append(self.handler.members)
                while not self.over.is_set() and (self.silent.is_set() or not self.handler.num_nodes_waiting()):
                    time.sleep(0.005)
                self.grown.append(self.handler.growing)
        except (NotNeededError, RendezvousLostError, StoppedError, InfrastructureError) as error:
            self.outcome = error

    @property
    def members(self):
        return self.rounds[-1] if self.rounds else ()

    def die(self):
        """Be gone without a word; the store of worker 0 goes with its process, which here it does not have."""
        self.over.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def hasty(monkeypatch):
    """Let patience be counted in tenths of seconds."""
    beat_faster(monkeypatch)
    monkeypatch.setattr(heartbeats, "LOST_AFTER_HEARTBEATS", 10)
    monkeypatch.setattr(membership, "SETTLING", 0.1)


@pytest.fixture
def crew(hasty):
    agents = []

    def start(config, *indices, attempt=1):
        agents.extend(Agent(config, index, attempt) for index in indices)
        return agents[-len(indices) :]

    yield start
    for agent in reversed(agents):
        agent.die()


def test_a_round_goes_on_with_fewer_and_ranks_are_places_among_its_members(crew):
    agents = crew(config_of(4, least=2), 0, 3, 1)
    wait_for(lambda: all(agent.members == (0, 1, 3) for agent in agents))


def test_too_few_are_not_enough(crew):
    config = config_of(3, least=2)
    (leader,) = crew(config, 0)
    wait_for(lambda: leader.handler.round == 1)
    patience = time.monotonic() + 2 * config.rendezvous_patience_seconds
    while time.monotonic() < patience:
        assert leader.members == ()
        time.sleep(0.005)


def test_a_worker_that_comes_later_is_let_in_and_the_others_know_that_they_may_save(crew):
    config = config_of(3, least=2)
    agents = crew(config, 0, 2)
    wait_for(lambda: agents[1].members == (0, 2))
    agents += crew(config, 1)
    wait_for(lambda: all(agent.members == (0, 1, 2) for agent in agents))
    assert [agent.grown for agent in agents] == [[True], [True], []]
    assert [len(agent.rounds) for agent in agents] == [2, 2, 1]


def test_a_full_crew_waits_for_a_lost_worker_and_then_goes_on_until_it_is_replaced(crew):
    config = config_of(3, least=1)
    agents = crew(config, 0, 1, 2)
    wait_for(lambda: agents[0].members == (0, 1, 2))
    agents[1].die()
    wait_for(lambda: agents[0].members == agents[2].members == (0, 2))
    assert agents[0].grown == [False], "whoever lost a peer has nobody to save with"
    agents += crew(config, 1, attempt=2)
    wait_for(lambda: all(agent.members == (0, 1, 2) for agent in (agents[0], *agents[2:])))
    assert agents[0].rounds == [(0, 1, 2), (0, 2), (0, 1, 2)]


def test_a_worker_that_is_replaced_in_time_is_waited_for(crew):
    config = config_of(3, least=1)
    agents = crew(config, 0, 1, 2)
    wait_for(lambda: agents[0].members)
    agents[1].die()
    crew(config, 1, attempt=2)
    wait_for(lambda: len(agents[0].rounds) == 2)
    assert agents[0].members == (0, 1, 2)


def test_a_worker_that_fell_silent_while_it_waited_is_left_out(crew):
    agents = crew(config_of(4, least=2), 0, 1)
    doomed = Member(agents[0].handler._config, 2).join()
    wait_for(lambda: doomed.handler.round == 1)
    doomed.stop.set()
    assert isinstance(doomed.result(), StoppedError)
    wait_for(lambda: all(agent.members == (0, 1) for agent in agents))


def test_worker_0_trains_alone_if_it_may(crew):
    config = config_of(2, least=1)
    (leader,) = crew(config, 0)
    wait_for(lambda: leader.members == (0,))
    (other,) = crew(config, 1)
    wait_for(lambda: leader.members == other.members == (0, 1))


def test_whoever_still_waits_when_the_job_is_done_is_not_needed(crew, monkeypatch):
    monkeypatch.setattr(membership, "SETTLING", 1000)
    monkeypatch.setattr(membership, "LONGEST_SETTLING", 1000)
    config = config_of(2, least=1)
    (leader,) = crew(config, 0)
    wait_for(lambda: leader.members == (0,))
    (late,) = crew(config, 1)
    wait_for(lambda: leader.handler._membership.newcomers)
    leader.over.set()
    leader.thread.join(20)
    leader.handler.leave(20)
    wait_for(lambda: late.outcome)
    assert isinstance(late.outcome, NotNeededError)


def test_those_that_fail_again_and_again_are_let_in_ever_more_seldom(crew):
    config = config_of(2, least=1)
    (leader,) = crew(config, 0)
    settling = []
    for attempt in range(1, 5):
        (other,) = crew(config, 1, attempt=attempt)
        wait_for(lambda other=other: leader.members == other.members == (0, 1))
        other.die()
        wait_for(lambda: leader.members == (0,))
        settling.append(leader.handler._membership.settling)
    assert settling == pytest.approx([0.08, 0.16, 0.32, 0.64])
