"""Intervals and limits of the control loop."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tuning:
    """The pace of the loop.

    Attributes:
        passes: How many jobs are looked at at once.
        creates: How many objects are created or deleted at once, over all jobs.
        status_interval: Seconds between two status writes of a job that say nothing but progress.
        news_interval: Seconds within which several small news (a worker became ready) make one write.
        status_rate: Status writes per second that say nothing but progress, over all jobs.
        resync_interval: Seconds between two complete listings, which find what a broken watch has missed.
        drain_timeout: Seconds that running passes get to finish when the loop stops.
        backoff_base: Seconds before the second try of a pass that failed, or of a creation; doubles with every failure.
        backoff_limit: The longest such wait, in seconds.
    """

    passes: int = 16
    creates: int = 16
    status_interval: float = 10.0
    news_interval: float = 0.5
    status_rate: float = 20.0
    resync_interval: float = 300.0
    drain_timeout: float = 15.0
    backoff_base: float = 0.25
    backoff_limit: float = 60.0
