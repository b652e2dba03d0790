"""Whatever is done to processes and files, at whichever step, a job ends bit for bit like one that was left alone.

Each round is one job of two workers that is hurt several times in a row, by a seed that is printed: TRAINWRIGHT_CHAOS_SEED
repeats it. With TRAINWRIGHT_CHAOS_SECONDS rounds go on for so long.
"""

import os
import random
import resource
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from trainwright.api.exit_codes import ExitCode

from .conftest import Job, wait_for

pytestmark = pytest.mark.local

SECONDS = float(os.environ.get("TRAINWRIGHT_CHAOS_SECONDS", "0"))
SEED = os.environ.get("TRAINWRIGHT_CHAOS_SEED")
SPEC = {
    "model": {"name": "cnn", "args": {"channels": [8], "hidden": [128]}},
    "dataset": {"builtin": {"name": "digits"}},
    "optimizer": {"name": "adamw", "weightDecay": 0.01},
    "schedule": {"name": "cosine", "warmupSteps": 20},
    "regularization": {"dropout": 0.2},
    "training": {"epochs": 40, "globalBatchSize": 64, "deterministic": True, "seed": 7},
    "evaluation": {"everySteps": 97},
    "checkpoint": {"everySteps": 31, "keep": 4},
    "workers": {"count": 2},
    "restart": {"limit": 100},
    "health": {"hang": {"minSeconds": 5}},
}
TOTAL = 40 * 22
APART = 90
"""Steps within which the next harm is done."""
LARGEST_FILE = 32 * 2**10
"""Bytes of a file at which the disk is full: more than a log has, less than a checkpoint."""


class Crew:
    """The workers of a job, and whoever replaces those that end, as the operator does."""

    def __init__(self, job):
        self.job = job
        self.attempt = 1
        self.workers = [job.start(0), job.start(1)]

    @property
    def done(self):
        return all(worker.ended and worker.wait() == 0 for worker in self.workers)

    def look_after(self):
        """Replace a worker that ended badly; without worker 0, all of them."""
        ended = [index for index, worker in enumerate(self.workers) if worker.ended and worker.wait() != 0]
        for index in ended:
            code = self.workers[index].wait()
            harmless = (ExitCode.INFRASTRUCTURE, ExitCode.PREEMPTED, ExitCode.HANG)
            assert code < 0 or code in harmless, self.workers[index].log
        if not ended:
            return
        self.attempt += 1
        if 0 in ended:
            self.workers[1].kill(signal.SIGTERM)
            self.workers[1].wait()
            ended = [0, 1]
        for index in ended:
            self.workers[index] = self.job.start(index, attempt=self.attempt)

    def reach(self, step):
        """Wait until so many steps are done, while workers are looked after."""

        def reached():
            self.look_after()
            return self.job.step >= step or self.done

        wait_for(reached, f"step {step}", 180)

    def ranks(self):
        """Return the processes that train, once all of them do."""

        def training():
            found = [pid for worker in self.workers for pid in worker.ranks]
            return found if len(found) == len(self.workers) else None

        return wait_for(training, "all ranks")

    def newest_checkpoint(self):
        def saved():
            return [path for path in self.job.checkpoints if (path / "manifest.json").exists()]

        return wait_for(saved, "a save")[-1]


def kill_a_rank(crew, chance):
    _signal(chance.choice(crew.ranks()), signal.SIGKILL)


def kill_a_worker(crew, chance):
    chance.choice(crew.workers).kill(signal.SIGKILL)


def stop_a_worker(crew, chance):
    chance.choice(crew.workers).kill(signal.SIGTERM)


def interrupt_a_rank(crew, chance):
    _signal(chance.choice(crew.ranks()), signal.SIGINT)


def freeze_a_rank_for_a_moment(crew, chance):
    rank = chance.choice(crew.ranks())
    _signal(rank, signal.SIGSTOP)
    wait_for(lambda: _state(rank) != "R", "the rank to stop")
    _signal(rank, signal.SIGCONT)


def freeze_a_rank_for_good(crew, chance):
    _signal(chance.choice(crew.ranks()), signal.SIGSTOP)


def fill_the_disk(crew, _chance):
    """Rank 0 can write no more: its next checkpoint fails in the middle, and it ends."""
    rank = crew.ranks()[0]
    with suppress(ProcessLookupError):
        resource.prlimit(rank, resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    wait_for(lambda: _state(rank) == "gone" or crew.done, "rank 0 to fail")


def corrupt_the_newest_checkpoint(crew, chance):
    files = sorted(crew.newest_checkpoint().glob("*.safetensors"))
    victim = chance.choice(files)
    content = bytearray(victim.read_bytes())
    content[-1 - chance.randrange(min(64, len(content)))] ^= 1
    victim.write_bytes(content)
    kill_a_rank(crew, chance)


def lose_the_newest_checkpoint(crew, chance):
    shutil.rmtree(crew.newest_checkpoint(), ignore_errors=True)
    kill_a_rank(crew, chance)


def lose_the_manifest_of_the_newest_checkpoint(crew, chance):
    (crew.newest_checkpoint() / "manifest.json").unlink(missing_ok=True)
    kill_a_worker(crew, chance)


HARMS = [
    kill_a_rank,
    kill_a_worker,
    stop_a_worker,
    interrupt_a_rank,
    freeze_a_rank_for_a_moment,
    freeze_a_rank_for_good,
    fill_the_disk,
    corrupt_the_newest_checkpoint,
    lose_the_newest_checkpoint,
    lose_the_manifest_of_the_newest_checkpoint,
]


def _signal(pid, number):
    """Send a signal to a process that may have ended meanwhile."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "gone"


@pytest.fixture(scope="module")
def untouched(nursery, tmp_path_factory):
    """The weights of a job that was left alone."""
    job = Job(nursery, tmp_path_factory.mktemp("untouched"), SPEC, {}, {})
    job.run()
    yield job.weights, job.summary["history"]
    job.close()


def live(job, seed):
    """Live through a round of harm, and return what was done at which step."""
    chance = random.Random(seed)
    harms = chance.sample(HARMS, len(HARMS))
    crew, done = Crew(job), []
    for harm in harms:
        step = job.step + chance.randint(20, APART)
        if step >= TOTAL - 1:
            break
        crew.reach(step)
        if not crew.done:
            harm(crew, chance)
            done.append(f"{harm.__name__} at step {job.step}")
    wait_for(lambda: crew.look_after() or crew.done, "the end", 180)
    return done


@pytest.mark.timeout(max(300, 2 * SECONDS + 300))
def test_a_hurt_job_ends_with_the_same_bits(make_job, untouched):
    weights, history = untouched
    begun, done = time.monotonic(), False
    while not done or time.monotonic() - begun < SECONDS:
        seed = int(SEED) if SEED else random.randrange(10**6)
        job = make_job(SPEC, f"round-{seed}")
        harms = live(job, seed)
        print(f"seed {seed}: {', '.join(harms)}; {len({r.launch for r in job.reports})} launches")  # noqa: T201
        if any(harm.startswith("fill_the_disk") for harm in harms):
            assert any("cannot save a checkpoint" in worker.log for worker in job.workers), job.workers[0].log
        assert job.weights == weights, f"TRAINWRIGHT_CHAOS_SEED={seed}"
        assert job.summary["history"] == history, f"TRAINWRIGHT_CHAOS_SEED={seed}"
        done = True
        if SEED:
            break
