"""Prometheus metrics of the operator, in a separate registry. Per-job series are computed at scrape time and disappear with the job."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from trainwright.api.status import Goodput, Phase
from trainwright.build import Manifest

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PER_JOB: dict[str, tuple[str, tuple[str, ...]]] = {
    "trainwright_job_step": ("Optimizer steps done.", ("progress", "step")),
    "trainwright_job_epoch": ("Epochs done.", ("progress", "epoch")),
    "trainwright_job_samples": ("Samples seen.", ("progress", "samples")),
    "trainwright_job_loss": ("Training loss, as last written to the status.", ("metrics", "loss")),
    "trainwright_job_learning_rate": ("Learning rate.", ("metrics", "learningRate")),
    "trainwright_job_peak_memory_bytes": ("Peak memory of rank 0.", ("metrics", "peakMemoryBytes")),
    "trainwright_job_gradient_norm": ("L2 norm of the newest gradient measured.", ("metrics", "gradNorm")),
    "trainwright_job_flops_per_step": ("Floating-point operations per step.", ("preflight", "flopsPerStep")),
    "trainwright_job_attempt": ("Number of starts of the workers so far.", ("attempt",)),
}
_OF_THE_MOMENT: dict[str, tuple[str, tuple[str, ...]]] = {
    "trainwright_job_samples_per_second": ("Throughput over all processes.", ("metrics", "samplesPerSecond")),
    "trainwright_job_tokens_per_second": ("Tokens per second over all processes.", ("metrics", "tokensPerSecond")),
    "trainwright_job_mfu_ratio": ("Model FLOPs utilization, 0 to 1.", ("metrics", "mfu")),
    "trainwright_job_workers_desired": ("Workers that the job asks for.", ("workers", "desired")),
    "trainwright_job_workers_ready": ("Running workers.", ("workers", "ready")),
}
"""Series that exist only while a job is active, not while it is queued or suspended or after it has ended."""
_AT_WORK = (Phase.PENDING, Phase.STARTING, Phase.RUNNING, Phase.RESTARTING)

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of series for no use


class Metrics:
    """All collectors of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "trainwright_reconcile_seconds", "Duration of one reconcile pass.", buckets=_BUCKETS, registry=self.registry
        )
        self.reconcile_errors = Counter(
            "trainwright_reconcile_errors", "Reconcile passes that failed and were retried.", registry=self.registry
        )
        self.conflicts = Counter(
            "trainwright_status_conflicts", "Status writes refused because the job had changed.", registry=self.registry
        )
        self.status_writes = Counter(
            "trainwright_status_writes", "Status writes that succeeded.", registry=self.registry
        )
        self.api_requests = Counter(
            "trainwright_api_requests",
            "Requests to the API server.",
            ("verb", "resource", "code"),
            registry=self.registry,
        )
        self.reports = Counter(
            "trainwright_reports", "Reports received from workers.", ("result",), registry=self.registry
        )
        self.leading = Gauge("trainwright_leading", "1 on the leading replica.", registry=self.registry)
        self.synced = Gauge("trainwright_synced", "1 once all jobs and pods have been listed.", registry=self.registry)
        self.namespaces_left_out = Gauge(
            "trainwright_namespaces_left_out",
            "Watched namespaces that the operator may not list.",
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def observe(
        self, jobs: Callable[[], Iterable[Manifest]], depth: Callable[[], int], oldest: Callable[[], float]
    ) -> None:
        """Register the jobs and the queue to be read at every scrape."""
        self.registry.register(_LoopCollector(jobs, depth, oldest))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _LoopCollector(Collector):
    """Computes the metrics of jobs and queue at scrape time."""

    def __init__(
        self, jobs: Callable[[], Iterable[Manifest]], depth: Callable[[], int], oldest: Callable[[], float]
    ) -> None:
        self._jobs = jobs
        self._depth = depth
        self._oldest = oldest

    def describe(self) -> Iterable[Metric]:
        """Return nothing, because registering would otherwise trigger a scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return the current metrics."""
        yield GaugeMetricFamily("trainwright_queue_depth", "Jobs waiting for a reconcile pass.", self._depth())
        yield GaugeMetricFamily(
            "trainwright_queue_oldest_seconds", "How long the oldest job in the queue has been due.", self._oldest()
        )
        jobs = [
            ((job["metadata"].get("namespace", ""), job["metadata"]["name"]), job.get("status") or {})
            for job in self._jobs()
        ]
        yield _phases(status for _, status in jobs)
        yield _operators(status for _, status in jobs)
        yield from _per_job(jobs)


def _phases(statuses: Iterable[Manifest]) -> Metric:
    tally = Tally(status.get("phase") for status in statuses)
    family = GaugeMetricFamily("trainwright_jobs", "Jobs by phase. New jobs have no phase yet.", labels=("phase",))
    for phase in Phase:
        family.add_metric((phase.value,), tally.get(phase.value, 0))
    family.add_metric(("New",), tally.get(None, 0))
    return family


def _operators(statuses: Iterable[Manifest]) -> Metric:
    """Return the number of jobs per release: those of another release are seen and left alone."""
    family = GaugeMetricFamily(
        "trainwright_jobs_by_operator", "Jobs by the release that drives them.", labels=("operator",)
    )
    for operator, number in sorted(Tally(status.get("operator") or "" for status in statuses).items()):
        family.add_metric((operator,), number)
    return family


def _per_job(jobs: list[tuple[tuple[str, str], Manifest]]) -> Iterator[Metric]:
    at_work = [(labels, status) for labels, status in jobs if status.get("phase") in _AT_WORK]
    yield from _gauges(_PER_JOB, jobs)
    yield from _gauges(_OF_THE_MOMENT, at_work)
    yield _needed(at_work)
    ratio = GaugeMetricFamily(
        "trainwright_job_progress_ratio", "Fraction of the steps done, 0 to 1.", labels=("namespace", "job")
    )
    evaluation = GaugeMetricFamily(
        "trainwright_job_evaluation", "Newest evaluation.", labels=("namespace", "job", "metric", "split")
    )
    restarts = CounterMetricFamily(
        "trainwright_job_restarts", "Restarts after failures so far.", labels=("namespace", "job")
    )
    for labels, status in jobs:
        restarts.add_metric(labels, status.get("restarts") or 0)
        step, total = (_at(status, ("progress", field)) for field in ("step", "totalSteps"))
        if step is not None and total:
            ratio.add_metric(labels, min(1, step / total))
        newest = (status.get("metrics") or {}).get("evaluation") or {}
        for metric, value in (newest.get("metrics") or {}).items():
            evaluation.add_metric((*labels, metric, str(newest.get("split", ""))), value)
    yield restarts
    yield ratio
    yield evaluation
    yield from _step_times(at_work)
    yield from _goodput(jobs)
    yield _ends(jobs)


def _gauges(
    what: dict[str, tuple[str, tuple[str, ...]]], jobs: list[tuple[tuple[str, str], Manifest]]
) -> Iterator[Metric]:
    for name, (text, path) in what.items():
        family = GaugeMetricFamily(name, text, labels=("namespace", "job"))
        for labels, status in jobs:
            value = _at(status, path)
            if value is not None:
                family.add_metric(labels, value)
        yield family


def _needed(jobs: list[tuple[tuple[str, str], Manifest]]) -> Metric:
    """Return the minimum number of workers of each job, which is lower than the desired number for elastic jobs."""
    family = GaugeMetricFamily(
        "trainwright_job_workers_needed",
        "Minimum number of workers to train with: minCount, or all.",
        labels=("namespace", "job"),
    )
    for labels, status in jobs:
        least, desired = (_at(status, ("workers", field)) for field in ("minimum", "desired"))
        needed = desired if least is None else least
        if needed is not None:
            family.add_metric(labels, needed)
    return family


def _ends(jobs: list[tuple[tuple[str, str], Manifest]]) -> Metric:
    """Return when jobs ended. Alerts compare this time, because a counter would be reset when the operator restarts."""
    family = GaugeMetricFamily(
        "trainwright_job_finished_timestamp_seconds",
        "Time at which the job ended, with its phase: Succeeded or Failed.",
        labels=("namespace", "job", "phase"),
    )
    for labels, status in jobs:
        if status.get("finishedAt"):
            moment = datetime.fromisoformat(status["finishedAt"]).timestamp()
            family.add_metric((*labels, status.get("phase", "")), moment)
    return family


def _goodput(jobs: list[tuple[tuple[str, str], Manifest]]) -> Iterator[Metric]:
    """Yield the breakdown of each job's time, as last written to its status."""
    names = ("namespace", "job")
    spent = CounterMetricFamily(
        "trainwright_job_seconds", "Seconds since creation, by activity.", labels=(*names, "activity")
    )
    totals = {
        field: CounterMetricFamily(f"trainwright_job_{name}_seconds", text, labels=names)
        for field, name, text in (
            ("workerSecondsHeld", "workers_held", "Seconds that workers ran, summed over all workers."),
            ("gpuSecondsHeld", "gpus_held", "Seconds that GPUs were held, summed over all GPUs."),
            ("gpuSecondsUsed", "gpus_used", "Held GPU seconds that were spent on steps and evaluations."),
        )
    }
    ratio = GaugeMetricFamily(
        "trainwright_job_goodput_ratio", "Fraction of the active time that was spent on new steps.", labels=names
    )
    for labels, status in jobs:
        ledger = status.get("goodput")
        if not ledger:
            continue
        ratio.add_metric(labels, ledger.get("ratio", 0))
        for activity in Goodput.KINDS:
            spent.add_metric((*labels, activity), ledger.get(activity, 0))
        for field, family in totals.items():
            family.add_metric(labels, ledger.get(field, 0))
    yield from (spent, *totals.values(), ratio)


def _step_times(jobs: list[tuple[tuple[str, str], Manifest]]) -> Iterator[Metric]:
    """Yield the parts of a step's time, and the ranks that lag behind."""
    parts = GaugeMetricFamily(
        "trainwright_job_step_part_seconds",
        "Breakdown of a step's time on rank 0: data, forward, backward, communication, optimizer.",
        labels=("namespace", "job", "part"),
    )
    stragglers = GaugeMetricFamily(
        "trainwright_job_straggler_factor",
        "Time of a straggler's own work divided by the median.",
        labels=("namespace", "job", "rank", "node"),
    )
    for labels, status in jobs:
        metrics = status.get("metrics") or {}
        for part, seconds in (metrics.get("stepSeconds") or {}).items():
            if part != "total":
                parts.add_metric((*labels, part), seconds)
        for straggler in metrics.get("stragglers") or ():
            stragglers.add_metric((*labels, str(straggler["rank"]), straggler.get("node", "")), straggler["factor"])
    yield parts
    yield stragglers


def _at(status: Manifest, path: tuple[str, ...]) -> float | None:
    value: Any = status
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None
