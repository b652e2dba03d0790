"""The children of a job other than its pods: ConfigMap, headless Service, NetworkPolicy."""

import json

from trainwright.api.names import (
    CA_FILE,
    CHECKPOINT_MOUNT,
    CONFIG_FILE,
    CONFIG_MOUNT,
    DATA_MOUNT,
    LABEL_JOB,
    LABEL_WORKER,
    TOKEN_FILE,
    TOKEN_MOUNT,
)
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.worker import ReportsEndpoint, WorkerConfig
from trainwright.build.manifest import Manifest
from trainwright.build.naming import companion_name, content_name, job_labels, owner_reference
from trainwright.build.settings import Settings


def companion_metadata(namespace: str, name: str, uid: str) -> Manifest:
    """Return the metadata of the job's Service. Its ConfigMap and its NetworkPolicy differ only in the name."""
    return {
        "name": companion_name(name, uid),
        "namespace": namespace,
        "labels": job_labels(name),
        "ownerReferences": [owner_reference(name, uid)],
    }


def worker_config(namespace: str, name: str, uid: str, spec: TrainingJobSpec, settings: Settings) -> WorkerConfig:
    """Return the config that every worker of the job reads."""
    reports = None
    if settings.reports_url is not None:
        reports = ReportsEndpoint(
            url=f"{settings.reports_url}/v1/namespaces/{namespace}/jobs/{name}/reports",
            ca_file=f"{CONFIG_MOUNT}/{CA_FILE}",
            token_file=f"{TOKEN_MOUNT}/{TOKEN_FILE}",
            interval_seconds=settings.report_interval,
        )
    return WorkerConfig(
        namespace=namespace,
        name=name,
        uid=uid,
        spec=spec.changed(class_=None),
        rendezvous_port=settings.rendezvous_port,
        metrics_port=settings.metrics_port,
        checkpoint_root=CHECKPOINT_MOUNT,
        data_root=DATA_MOUNT,
        reports=reports,
    )


def config_map(namespace: str, name: str, uid: str, spec: TrainingJobSpec, settings: Settings) -> Manifest:
    """Return the ConfigMap that workers mount: their config, and the CA certificate of the reports endpoint."""
    config = worker_config(namespace, name, uid, spec, settings)
    # Defaults are left out, because an older worker image rejects fields of the spec that it does not know.
    text = config.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True, indent=2)
    data = {
        CONFIG_FILE: text,
        CA_FILE: settings.reports_ca,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            **companion_metadata(namespace, name, uid),
            "name": content_name(name, uid, *(data[file] for file in sorted(data))),
        },
        "immutable": True,
        "data": data,
    }


def service(namespace: str, name: str, uid: str, settings: Settings) -> Manifest:
    """Return the headless Service that gives worker 0 its DNS name, even before it is ready.

    Nothing connects to the other workers. If the Service selected them too, each would cost an EndpointSlice update when it
    starts and stops.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": companion_metadata(namespace, name, uid),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {LABEL_JOB: name, LABEL_WORKER: "0"},
            "ports": [{"name": "rendezvous", "port": settings.rendezvous_port}],
        },
    }


def network_policy(namespace: str, name: str, uid: str, settings: Settings) -> Manifest:
    """Return the NetworkPolicy that admits only the job's own workers, the operator, and the metrics scrapers.

    The rendezvous store and the collectives have no authentication.
    """
    own = {"podSelector": {"matchLabels": {LABEL_JOB: name}}}
    ingress: list[Manifest] = [{"from": [own]}]
    scrapers = [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": scraper}}}
        for scraper in (settings.operator_namespace, *settings.metrics_namespaces)
        if scraper
    ]
    if scrapers and settings.metrics_port is not None:
        ports = [{"port": settings.metrics_port, "endPort": settings.metrics_port + 63, "protocol": "TCP"}]
        ingress.append({"from": scrapers, "ports": ports})
    spec = {"podSelector": own["podSelector"], "policyTypes": ["Ingress"], "ingress": ingress}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            **companion_metadata(namespace, name, uid),
            "name": content_name(name, uid, json.dumps(spec, sort_keys=True)),
        },
        "spec": spec,
    }
