"""Prometheus metrics of one rank, served on its own port. If the port is in use, training continues without metrics."""

import socket
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from trainwright_worker.console import say
from trainwright_worker.reporting.figures import Figures

_STEP_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The collectors of a rank."""

    def __init__(self, port: int, rank: int) -> None:
        """Serve the metrics.

        Args:
            port: Port to listen on.
            rank: Rank of this process, for the log.
        """
        registry = CollectorRegistry()
        prefix = "trainwright_worker"
        self._step = Gauge(f"{prefix}_step", "Optimizer steps done.", registry=registry)
        self._epoch = Gauge(f"{prefix}_epoch", "Epochs done.", registry=registry)
        self._loss = Gauge(f"{prefix}_loss", "Mean training loss since the value before.", registry=registry)
        self._rate = Gauge(f"{prefix}_learning_rate", "Learning rate of the newest step.", registry=registry)
        self._norm = Gauge(f"{prefix}_gradient_norm", "L2 norm of the newest gradient measured.", registry=registry)
        self._throughput = Gauge(f"{prefix}_samples_per_second", "Samples per second, all ranks.", registry=registry)
        self._samples = Counter(f"{prefix}_samples", "Samples that this launch has seen, all ranks.", registry=registry)
        self._seconds = Histogram(
            f"{prefix}_step_seconds", "Seconds per optimizer step.", registry=registry, buckets=_STEP_BUCKETS
        )
        self._saved_step = Gauge(f"{prefix}_checkpoint_step", "Step of the newest checkpoint.", registry=registry)
        self._saved_at = Gauge(
            f"{prefix}_checkpoint_timestamp_seconds", "When the newest checkpoint was complete.", registry=registry
        )
        self._tokens = Gauge(f"{prefix}_tokens_per_second", "Tokens per second, all ranks.", registry=registry)
        self._mfu = Gauge(f"{prefix}_mfu_ratio", "Share of the peak arithmetic made use of.", registry=registry)
        self._memory = Gauge(f"{prefix}_peak_memory_bytes", "Most memory held at once.", registry=registry)
        self._parts = Gauge(
            f"{prefix}_step_part_seconds",
            "Where the time of a step goes: data, forward, backward, communication, optimizer.",
            ("part",),
            registry=registry,
        )
        try:
            start_http_server(port, _every_address(), registry=registry)
        except OSError as error:
            say(f"rank {rank}", f"cannot serve metrics on port {port}: {error.strerror}")

    def observe(
        self, *, step: int, epoch: int, loss: float | None, rate: float, norm: float | None, figures: Figures
    ) -> None:
        """Set the current values; None keeps the previous value."""
        self._step.set(step)
        self._epoch.set(epoch)
        self._rate.set(rate)
        self._memory.set(figures.peak_memory_bytes)
        for gauge, value in (
            (self._loss, loss),
            (self._norm, norm),
            (self._throughput, figures.samples_per_second),
            (self._tokens, figures.tokens_per_second),
            (self._mfu, figures.mfu),
        ):
            if value is not None:
                gauge.set(value)
        for part, seconds in figures.step_seconds.model_dump().items() if figures.step_seconds is not None else ():
            if part != "total":
                self._parts.labels(part).set(seconds)

    def observe_steps(self, seconds: Iterable[float], samples: int) -> None:
        """Add step durations to the histogram, and count the samples of the steps."""
        for value in seconds:
            self._seconds.observe(value)
        self._samples.inc(samples)

    def observe_checkpoint(self, step: int, timestamp: float) -> None:
        """Set step and time of the newest checkpoint."""
        self._saved_step.set(step)
        self._saved_at.set(timestamp)


def _every_address() -> str:
    """Return the wildcard address, because a cluster may use IPv4, IPv6 or both."""
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - a NetworkPolicy limits access
