"""What allowlists of a TrainingClass refuse: the operator and the admission policy must say the same.

Each row: spec.allowed of the class, spec.workers of the job, other parts of its spec, and what a refusal says (None if it is
allowed). The class fills in the image `own`.
"""

from typing import Any

DEFAULTS = {"workers": {"image": "own"}}
CASES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str | None]] = [
        ({"images": ["reg.io/ml/*"]}, {"image": "reg.io/ml/a:1"}, {}, None),
        ({"images": ["reg.io/ml/a"]}, {"image": "reg.io/ml/a@sha256:12"}, {}, None),
        ({"images": ["reg.io/ml/a:1"]}, {"image": "reg.io/ml/a:2"}, {}, "spec.workers.image: reg.io/ml/a:2"),
        ({"images": ["reg.io/*"]}, {"image": "regxio/a"}, {}, "spec.workers.image: regxio/a"),
        ({"images": ["reg.io/ml/*"]}, {"image": "evil.io/reg.io/ml/a"}, {}, "spec.workers.image"),
        ({"images": []}, {}, {}, None),
        ({"images": []}, {"image": "own"}, {}, None),
        ({"images": []}, {"image": "other"}, {}, "which allows only what it fills in itself"),
        ({"priorityClasses": ["low"]}, {"priorityClassName": "high"}, {}, "spec.workers.priorityClassName: high"),
        ({"runtimeClasses": ["nvidia"]}, {"runtimeClassName": "kata"}, {}, "spec.workers.runtimeClassName: kata"),
        ({"schedulers": []}, {"schedulerName": "mine"}, {}, "spec.workers.schedulerName: mine"),
        ({"schedulers": []}, {}, {"scheduling": {"gang": "volcano"}}, "spec.workers.schedulerName: volcano"),
        ({"queues": ["team-*"]}, {}, {"scheduling": {"queue": "team-a"}}, None),
        ({"queues": ["team-*"]}, {}, {"scheduling": {"queue": "other"}}, "spec.scheduling.queue: other"),
        ({"tolerations": ["gpu"]}, {"tolerations": [{"key": "gpu", "operator": "Exists"}]}, {}, None),
        ({"tolerations": ["gpu"]}, {"tolerations": [{"operator": "Exists"}]}, {}, "spec.workers.tolerations: *"),
        ({"serviceAccounts": []}, {"serviceAccountName": "default"}, {}, None),
        ({"serviceAccounts": []}, {"serviceAccountName": "admin"}, {}, "spec.workers.serviceAccountName: admin"),
        (
            {"volumes": ["configMap"]},
            {"volumes": [{"name": "v", "mountPath": "/v", "emptyDir": {}}]},
            {},
            "spec.workers.volumes: emptyDir",
        ),
        (
            {"volumes": ["configMap"]},
            {"volumes": [{"name": "v", "mountPath": "/v", "secret": {"secretName": "s"}}]},
            {},
            "spec.workers.volumes: secret",
        ),
        ({"labels": ["cost/*"]}, {"labels": {"cost/center": "7"}}, {}, None),
        ({"labels": ["cost/*"]}, {"labels": {"cost/center": "7", "team": "a"}}, {}, "spec.workers.labels: team"),
        ({"annotations": []}, {"annotations": {"note": "a"}}, {}, "spec.workers.annotations: note"),
        ({"userIds": {"minimum": 1000, "maximum": 2000}}, {"securityContext": {"runAsUser": 2000}}, {}, None),
        (
            {"userIds": {"minimum": 1000, "maximum": 2000}},
            {"securityContext": {"runAsUser": 999}},
            {},
            "spec.workers.securityContext.runAsUser: 999",
        ),
]  # fmt: skip
