"""Settings of the operator process, read from environment variables named TRAINWRIGHT_…."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from trainwright.api.names import REPORTS_PORT
from trainwright.build import Settings
from trainwright.controller.tuning import Tuning

_MISSED = 3
"""Reports that may be missing before progress is stale, however seldom there are any."""
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Names = Annotated[tuple[str, ...], NoDecode]
"""Names separated by commas."""


def _own_namespace() -> str:
    """Return the namespace of this pod, or `default` outside a cluster."""
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


class OperatorSettings(BaseSettings):
    """Settings of the administrator. Durations are in seconds."""

    model_config = SettingsConfigDict(env_prefix="TRAINWRIGHT_", frozen=True, extra="ignore", env_ignore_empty=True)

    namespaces: Names = Field((), description="Namespaces to watch; empty watches all.")
    operator_namespace: str = Field(
        default_factory=_own_namespace, description="Namespace of the operator, its Lease and its certificate."
    )
    pod_name: str | None = Field(None, description="Name of this pod; identifies the holder of the Lease.")

    worker_image: str = Field("trainwright-worker:latest", description="Image of workers that name none.")
    worker_pull_policy: str | None = Field(None, description="Pull policy of that image.")
    service_accounts: Names = Field((), description="Service accounts that jobs may use besides default.")
    network_policy: bool = Field(True, description="Whether each job gets a NetworkPolicy.")
    metrics_namespaces: Names = Field((), description="Namespaces that may scrape workers.")
    report_interval: float = Field(2.0, gt=0, description="Seconds between a worker's reports.")
    stale_after: float = Field(
        60.0,
        gt=0,
        description="Seconds without a report after which progress is stale; three times the interval, if that is longer.",
    )

    reports_enabled: bool = Field(True, description="Whether to serve the endpoint that workers report to.")
    reports_service: str = Field("trainwright-reports", description="Service in front of the reports endpoint.")
    reports_port: int = Field(REPORTS_PORT, ge=1, le=65_535, description="Port of the reports endpoint.")
    reports_connections: int = Field(
        1024, ge=8, description="Connections to the reports endpoint open at once; each costs 50 KiB."
    )
    reports_connections_per_address: int = Field(128, ge=1, description="Of these, from one address.")
    reports_secret: str = Field("trainwright-reports-ca", description="Secret that keeps the endpoint's CA.")
    reports_ca_interval: float = Field(60.0, gt=0, description="Seconds between two looks at that Secret.")
    health_port: int = Field(8080, ge=0, le=65_535, description="Port of /healthz, /readyz and /metrics.")

    lease: bool = Field(True, description="Whether to take a Lease, so that only one of several replicas works.")
    lease_name: str = Field("trainwright-operator", description="Name of the Lease.")
    lease_duration: float = Field(15.0, gt=0, description="After how long another replica may take over.")
    lease_renew: float = Field(2.0, gt=0, description="Seconds between renewals.")

    passes: int = Field(16, ge=1, description="Jobs looked at at once.")
    creates: int = Field(16, ge=1, description="Objects created or deleted at once.")
    connections: int = Field(24, ge=4, description="Connections to the API server; each costs a quarter of a MiB.")
    status_interval: float = Field(10.0, ge=0, description="Seconds between two periodic status writes of a job.")
    status_rate: float = Field(20.0, gt=0, description="Periodic status writes per second, over all jobs.")
    resync_interval: float = Field(300.0, gt=0, description="Seconds between two complete listings.")
    drain_timeout: float = Field(15.0, ge=0, description="Seconds that running passes get at the end.")
    stuck_after: float = Field(180.0, gt=0, description="Seconds without any pass ending after which to be restarted.")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum level that is logged.")
    log_format: Literal["json", "console"] = Field("json", description="How log lines look.")

    @field_validator("namespaces", "service_accounts", "metrics_namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    def for_plan(self, reports_ca: str | None) -> Settings:
        """Return the settings for the planner. Without a CA, workers do not report."""
        url = f"https://{self.reports_service}.{self.operator_namespace}.svc:{REPORTS_PORT}"
        return Settings(
            worker_image=self.worker_image,
            worker_pull_policy=self.worker_pull_policy,
            service_accounts=frozenset(self.service_accounts),
            reports_url=url if reports_ca else None,
            reports_ca=reports_ca or "",
            network_policy=self.network_policy,
            operator_namespace=self.operator_namespace,
            metrics_namespaces=self.metrics_namespaces,
            report_interval=self.report_interval,
            release=f"{self.operator_namespace}/{self.lease_name}" if self.lease else None,
            stale_after=max(self.stale_after, _MISSED * self.report_interval),
        )

    def tuning(self) -> Tuning:
        """Return the pace of the loop."""
        return Tuning(
            passes=self.passes,
            creates=self.creates,
            status_interval=self.status_interval,
            status_rate=self.status_rate,
            resync_interval=self.resync_interval,
            drain_timeout=self.drain_timeout,
        )
