"""What a worker finds out before its first step, and what it measures on its way."""

import pytest

from trainwright.api.exit_codes import ExitCode

pytestmark = pytest.mark.local

CLUSTERS = {"synthetic": {"kind": "clusters", "features": 20, "samples": 2000}}


def test_a_job_that_will_not_fit_ends_before_it_allocates_anything(make_job):
    spec = {
        "model": {"name": "mlp", "args": {"hidden": [20_000] * 64}},
        "dataset": CLUSTERS,
        "training": {"epochs": 1},
    }
    job = make_job(spec)
    worker = job.start()
    assert worker.wait() == ExitCode.OUT_OF_MEMORY
    ending = worker.termination
    assert ending.message.startswith("preflight: does not fit: 25.2B parameters need 658 GiB per process, but CPU has")
    assert "fsdp over" in ending.hint
    told = job.reports[-1].preflight
    assert (told.fits, told.parameters) == (False, 63 * 20_001 * 20_000 + 21 * 20_000 + 20_001 * 10)


def test_workers_on_one_machine_share_its_memory(make_job):
    """What would fit alone may not beside others; as many as no machine has room for stand in for a few large ones."""
    spec = {
        "model": {"name": "mlp", "args": {"hidden": [8]}},
        "dataset": CLUSTERS,
        "training": {"epochs": 1},
    }
    worker = make_job(spec, env={"TRAINWRIGHT_SHARING_PROCESSES": str(10**9)}).start()
    assert worker.wait() == ExitCode.OUT_OF_MEMORY
    assert "does not fit" in worker.termination.message


def test_preflight_and_figures_are_reported(make_job):
    spec = {
        "task": "language-modeling",
        "model": {"name": "gpt", "args": {"dimension": 32, "heads": 2, "layers": 1}},
        "dataset": {"text": {"path": "text.txt"}, "tokenizer": {"name": "character", "maxLength": 16}},
        "training": {"steps": 300, "globalBatchSize": 8, "microBatchSize": 2},
        "workers": {"count": 2},
    }
    job = make_job(spec)
    (job.folder / "data").mkdir(exist_ok=True)
    (job.folder / "data" / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 300)
    job.run()
    report = job.reports[-1]
    preflight, parts = report.preflight, report.step_seconds
    assert (preflight.fits, preflight.processes, preflight.micro_batch_size, preflight.accumulation) == (True, 2, 2, 2)
    assert preflight.total_bytes == preflight.memory.total
    assert preflight.dry_step_seconds > 0
    assert report.tokens_per_second == pytest.approx(16 * report.samples_per_second)
    assert report.mfu is None  # CPUs have no peak that anybody could name
    assert report.peak_memory_bytes > 50 * 2**20
    shares = [parts.data, parts.forward, parts.backward, parts.communication, parts.optimizer]
    assert sum(shares) == pytest.approx(parts.total)
    assert min(parts.forward, parts.backward, parts.communication, parts.optimizer) > 0
