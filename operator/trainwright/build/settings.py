"""Settings that an administrator makes for all jobs."""

from dataclasses import dataclass

from trainwright.api.names import METRICS_PORT, RENDEZVOUS_PORT


@dataclass(frozen=True)
class Settings:
    """Settings that an administrator makes for all jobs.

    Attributes:
        worker_image: Default image of workers.
        worker_pull_policy: Pull policy of that image; None leaves it to the cluster.
        service_accounts: Service accounts that jobs may use besides `default`.
        reports_url: Base URL of the reports endpoint, without a path; None when workers cannot report.
        reports_ca: The endpoint's CA certificate in PEM.
        network_policy: Whether the operator creates a NetworkPolicy for each job.
        operator_namespace: Namespace of the operator, which those policies admit; None outside a cluster.
        metrics_namespaces: Value of the kubernetes.io/metadata.name label of namespaces that may scrape workers.
        rendezvous_port: Port of the rendezvous store on worker 0.
        metrics_port: Port of the first local rank's metrics; None if workers serve no metrics.
        report_interval: Seconds between a worker's reports.
        stale_after: Seconds without a report after which progress counts as stale.
        release: Name of this release of the operator, NAMESPACE/LEASE; None where there can be no other.
        pods_leave_files: Whether files that a pod writes outside volumes are kept after it ends, as they are in a local run.
    """

    worker_image: str
    worker_pull_policy: str | None = None
    service_accounts: frozenset[str] = frozenset()
    reports_url: str | None = None
    reports_ca: str = ""
    network_policy: bool = True
    operator_namespace: str | None = None
    metrics_namespaces: tuple[str, ...] = ()
    rendezvous_port: int = RENDEZVOUS_PORT
    metrics_port: int | None = METRICS_PORT
    report_interval: float = 2.0
    stale_after: float = 60.0
    release: str | None = None
    pods_leave_files: bool = False
