"""Children as YAML, compared with what a person has read and approved.

After a change that is meant: TRAINWRIGHT_UPDATE_GOLDEN=1 pytest tests/unit/build, then read the difference.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from situations import SETTINGS, UID, spec

from trainwright.build import WorkerSlot, config_map, group_of, network_policy, pod_group, service, worker_pod
from trainwright.manifests import dump

GOLDEN = Path(__file__).parent / "golden"
JOB = ("team", "digits", UID)
CONFIG = "digits-11112222-0123abcd"

PLAIN = spec()
FULL = spec(
    model={"class": "nets:Residual"},
    code={"configMap": {"name": "nets"}},
    workers={
        "count": 4,
        "processesPerWorker": 2,
        "image": "registry.example/team/trainer:1",
        "imagePullPolicy": "Always",
        "imagePullSecrets": ["pull"],
        "resources": {"requests": {"cpu": "4"}, "limits": {"nvidia.com/gpu": 2, "memory": "64Gi"}},
        "env": [
            {"name": "NCCL_DEBUG", "value": "INFO"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
            {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}},
        ],
        "envFrom": [{"prefix": "TEAM_", "configMapRef": {"name": "team"}}, {"secretRef": {"name": "store"}}],
        "sharedMemorySize": "8Gi",
        "labels": {"team.example/name": "vision"},
        "annotations": {"team.example/ticket": "A-1"},
        "securityContext": {"runAsUser": 1000, "fsGroup": 2000, "supplementalGroups": [3000]},
        "dnsConfig": {"searches": ["team.example"], "options": [{"name": "ndots", "value": "2"}]},
        "volumes": [
            {"name": "data", "mountPath": "/data", "readOnly": True, "persistentVolumeClaim": {"claimName": "mnist"}},
            {"name": "settings", "mountPath": "/settings", "configMap": {"name": "settings"}},
            {"name": "keys", "mountPath": "/keys", "subPath": "prod", "secret": {"secretName": "keys"}},
            {"name": "scratch", "mountPath": "/scratch", "emptyDir": {"sizeLimit": "10Gi"}},
        ],
        "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
        "schedulerName": "volcano",
        "serviceAccountName": "trainer",
        "terminationGracePeriodSeconds": 120,
    },
    training={"steps": 100, "globalBatchSize": 64},
    checkpoint={"persistentVolumeClaim": "checkpoints"},
)


def placed(gang: str, **scheduling) -> list[dict[str, object]]:
    """Return the group of a job's first start and its worker 1, as who places them wants both."""
    workers = FULL.to_wire()["workers"] | {"schedulerName": None}
    job = spec(
        workers=workers,
        training={"steps": 100, "globalBatchSize": 64},
        checkpoint={"persistentVolumeClaim": "checkpoints"},
        scheduling={"gang": gang, **scheduling},
    )
    group = group_of(*JOB[1:], job, 1, served=True)
    told = pod_group(*JOB, job, group)
    pod = worker_pod(*JOB, job, SETTINGS, CONFIG, WorkerSlot(1, 1, 1, group=group))
    member = {"metadata": pod["metadata"]} | {
        "spec": {
            field: pod["spec"].get(field) for field in ("schedulerName", "schedulingGroup") if field in pod["spec"]
        }
    }
    return [*([] if told is None else [told]), member]


@pytest.mark.parametrize(
    ("name", "scheduling"),
    [
        ("gang-kubernetes", {"gang": "auto"}),
        ("gang-volcano", {"gang": "volcano", "queue": "team-a"}),
        ("gang-scheduler-plugins", {"gang": "scheduler-plugins"}),
        ("gang-kueue", {"gang": "none", "queue": "team-a", "priority": "urgent"}),
    ],
)
def test_a_gang_is_as_approved(name, scheduling):
    path = GOLDEN / f"{name}.yaml"
    text = "---\n".join(dump(manifest) for manifest in placed(**scheduling))
    if os.environ.get("TRAINWRIGHT_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_an_elastic_job_needs_places_for_its_least_only():
    job = spec(workers={"count": 4, "minCount": 2})
    group = group_of(*JOB[1:], job, 3, served=True)
    assert group.name == "digits-111122-3x2"
    # Which of them go on is theirs to settle: the scheduler may take them one by one.
    assert pod_group(*JOB, job, group)["spec"] == {"schedulingPolicy": {"gang": {"minCount": 2}}}
    queued = spec(workers={"count": 4, "minCount": 2}, scheduling={"queue": "team-a"})
    assert group_of(*JOB[1:], queued, 3, served=False).name == "digits-111122-3x4"


@pytest.mark.parametrize(
    ("scheduler", "grouped"), [(None, True), ("default-scheduler", True), ("kai-scheduler", False)]
)
def test_a_scheduler_of_ones_own_is_asked_for_no_group(scheduler, grouped):
    job = spec(workers={"count": 2, "schedulerName": scheduler})
    assert (group_of(*JOB[1:], job, 1, served=True) is not None) == grouped


@pytest.mark.parametrize(
    ("amount", "total"),
    [("100m", "300m"), ("300Mi", "900Mi"), ("1.5Gi", "4.5Gi"), (2, "6"), ("1e3", "3e3"), (".5", "1.5"), ("10", "30")],
)
def test_a_group_asks_for_what_its_workers_ask_for_together(amount, total):
    workers = {"count": 3, "resources": {"requests": {"memory": amount}}}
    job = spec(workers=workers, scheduling={"gang": "volcano"})
    group = group_of(*JOB[1:], job, 1, served=False)
    assert pod_group(*JOB, job, group)["spec"]["minResources"] == {"memory": total}


@pytest.mark.parametrize(
    ("name", "manifest"),
    [
        ("pod-plain", worker_pod(*JOB, PLAIN, SETTINGS, CONFIG, WorkerSlot(0, 1, 1))),
        ("pod-full", worker_pod(*JOB, FULL, SETTINGS, CONFIG, WorkerSlot(3, 2, 1))),
        ("config-map", config_map(*JOB, PLAIN, SETTINGS)),
        ("service", service(*JOB, SETTINGS)),
        ("network-policy", network_policy(*JOB, SETTINGS)),
    ],
)
def test_child_is_as_approved(name, manifest):
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("TRAINWRIGHT_UPDATE_GOLDEN"):
        path.write_text(dump(manifest))
    assert dump(manifest) == path.read_text()


@pytest.mark.parametrize(
    "manifest", [worker_pod(*JOB, s, SETTINGS, CONFIG, WorkerSlot(0, 1, 1)) for s in (PLAIN, FULL)]
)
def test_pod_satisfies_pod_security_restricted(manifest):
    pod = manifest["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
    assert all(len(volume.keys() & allowed) == 1 for volume in pod["volumes"])
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert not security.get("privileged")


def test_a_config_that_differs_has_another_name_and_the_same_one_has_not():
    def name(config=PLAIN, **settings):
        return config_map(*JOB, config, replace(SETTINGS, **settings))["metadata"]["name"]

    names = [name(), name(FULL), name(reports_ca="another"), name(reports_url="https://elsewhere.svc:8443")]
    assert len(set(names)) == 4
    assert name(spec()) == name()
    assert name(worker_image="worker:2") == name(), "an upgrade alone makes no new one"


def test_a_policy_that_differs_has_another_name_and_the_same_one_has_not():
    def name(**settings):
        return network_policy(*JOB, replace(SETTINGS, **settings))["metadata"]["name"]

    names = [name(), name(metrics_namespaces=("monitoring",)), name(operator_namespace="elsewhere")]
    assert len(set(names)) == 3
    assert name(worker_image="worker:2", reports_ca="another") == name()


def test_names_fit_into_dns_labels_at_their_longest():
    longest = "a" * 45
    pod = worker_pod("team", longest, UID, PLAIN, SETTINGS, CONFIG, WorkerSlot(9999, 9999, 9999))
    assert len(pod["metadata"]["name"]) <= 63
    assert len(pod["spec"]["hostname"]) <= 63
    assert len(config_map("team", longest, UID, PLAIN, SETTINGS)["metadata"]["name"]) <= 63
    assert len(network_policy("team", longest, UID, SETTINGS)["metadata"]["name"]) <= 63
    largest = spec(workers={"count": 10_000}, training={"steps": 1, "globalBatchSize": 10_000})
    assert len(group_of(longest, UID, largest, 9999, served=True).name) <= 63
