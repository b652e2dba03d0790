"""What Prometheus reads."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from trainwright import __version__
from trainwright.api.status import Phase
from trainwright.metrics import Metrics


def _read(metrics):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def _job(name, **status):
    return {"metadata": {"namespace": "team", "name": name}, "status": status}


def test_reads_jobs_at_every_scrape():
    jobs = [
        _job(
            "a",
            phase="Running",
            restarts=2,
            progress={"percent": 25, "step": 10, "totalSteps": 40},
            metrics={
                "loss": 0.5,
                "samplesPerSecond": 12.5,
                "evaluation": {"split": "validation", "metrics": {"accuracy": 0.9}},
            },
            workers={"desired": 2, "ready": 1},
            goodput={"ratio": 0.75, "training": 30, "starting": 10, "gpuSecondsHeld": 80, "gpuSecondsUsed": 60},
        ),
        _job("b"),
    ]
    metrics = Metrics()
    metrics.observe(lambda: jobs, lambda: 3, lambda: 1.5)
    read = _read(metrics)
    of_a = (("job", "a"), ("namespace", "team"))
    assert read["trainwright_jobs", (("phase", "Running"),)] == 1
    assert read["trainwright_jobs", (("phase", "New"),)] == 1
    assert read["trainwright_namespace_jobs", (("namespace", "team"), ("phase", "Running"))] == 1
    assert read["trainwright_jobs_by_operator", (("operator", ""),)] == 2
    assert read["trainwright_build_info", (("version", __version__),)] == 1
    assert read["trainwright_job_progress_ratio", of_a] == 0.25
    assert read["trainwright_job_step", of_a] == 10
    assert read["trainwright_job_loss", of_a] == 0.5
    assert read["trainwright_job_samples_per_second", of_a] == 12.5
    assert read["trainwright_job_workers_ready", of_a] == 1
    assert read["trainwright_job_restarts_total", of_a] == 2
    assert read["trainwright_job_seconds_total", (("activity", "training"), *of_a)] == 30
    assert read["trainwright_job_seconds_total", (("activity", "stalled"), *of_a)] == 0
    assert read["trainwright_job_gpus_held_seconds_total", of_a] == 80
    assert read["trainwright_job_gpus_used_seconds_total", of_a] == 60
    assert read["trainwright_job_goodput_ratio", of_a] == 0.75
    labels = (("job", "a"), ("metric", "accuracy"), ("namespace", "team"), ("split", "validation"))
    assert read["trainwright_job_evaluation", labels] == 0.9
    assert read["trainwright_queue_depth", ()] == 3
    jobs.clear()
    assert ("trainwright_job_step", of_a) not in _read(metrics)


@pytest.mark.parametrize(
    ("workers", "needed"),
    [({"desired": 4}, 4), ({"desired": 4, "minimum": 3}, 3), ({"desired": 4, "minimum": None}, 4)],
)
def test_an_elastic_job_needs_its_least_only(workers, needed):
    metrics = Metrics()
    metrics.observe(lambda: [_job("a", phase="Running", workers=workers)], lambda: 0, lambda: 0.0)
    read = _read(metrics)
    of_a = (("job", "a"), ("namespace", "team"))
    assert read["trainwright_job_workers_needed", of_a] == needed
    assert read["trainwright_job_workers_desired", of_a] == 4


def test_what_is_so_at_work_only_is_not_told_of_others():
    known = {
        "workers": {"desired": 2, "ready": 1},
        "progress": {"step": 10, "totalSteps": 40},
        "metrics": {"samplesPerSecond": 12.5, "stepSeconds": {"data": 1.0}},
    }
    phases = [phase.value for phase in Phase]
    metrics = Metrics()
    metrics.observe(lambda: [_job(phase, phase=phase, **known) for phase in phases], lambda: 0, lambda: 0.0)
    read = _read(metrics)
    for name in (
        *("trainwright_job_workers_ready", "trainwright_job_workers_desired", "trainwright_job_workers_needed"),
        *("trainwright_job_samples_per_second", "trainwright_job_step_part_seconds"),
    ):
        told = {dict(labels)["job"] for sample, labels in read if sample == name}
        assert told == {"Pending", "Starting", "Running", "Restarting"}, name
    assert {dict(labels)["job"] for sample, labels in read if sample == "trainwright_job_step"} == set(phases)


def test_an_end_is_a_moment_that_a_new_operator_knows_as_well():
    ended = _job("a", phase="Failed", finishedAt="2026-01-02T03:04:05Z")
    metrics = Metrics()
    metrics.observe(lambda: [ended, _job("b", phase="Running")], lambda: 0, lambda: 0.0)
    ends = {labels: value for (name, labels), value in _read(metrics).items() if "finished" in name}
    assert ends == {(("job", "a"), ("namespace", "team"), ("phase", "Failed")): 1767323045}


def test_counts_requests_and_reports():
    metrics = Metrics()
    metrics.api_requests.labels("POST", "pods", "201").inc()
    metrics.reports.labels("204").inc()
    read = _read(metrics)
    assert read["trainwright_api_requests_total", (("code", "201"), ("resource", "pods"), ("verb", "POST"))] == 1
    assert read["trainwright_reports_total", (("result", "204"),)] == 1
    assert read["process_resident_memory_bytes", ()] > 0
