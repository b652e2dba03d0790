"""What the chart renders: safe pods, least rights, settings that the operator knows, values that refuse a typo."""

import json
import re
import shutil

import pytest
import yaml
from generated import CHART, KUBE_VERSION
from situations import SETTINGS, UID, spec

from trainwright.api.definitions import definitions
from trainwright.api.training_class import read_class
from trainwright.build import WorkerSlot, worker_pod
from trainwright.build.naming import worker_labels
from trainwright.controller.settings import OperatorSettings
from trainwright.metrics import Metrics

EVERYTHING = (
    "replicas=2",
    *(f"metrics.{name}.enabled=true" for name in ("serviceMonitor", "podMonitor", "rules", "dashboard")),
    'metrics.namespaces=["monitoring"]',
    'image.pullSecrets=["registry"]',
    'serviceAccounts.allowed=["trainer"]',
    'extraEnv=[{"name":"HTTPS_PROXY","value":"http://proxy"}]',
    'nodeSelector={"kubernetes.io/arch":"amd64"}',
    'tolerations=[{"operator":"Exists"}]',
    'priorityClassName="system-cluster-critical"',
)
VARIANTS = {
    "default": (),
    "everything": EVERYTHING,
    "two namespaces": ('watchNamespaces=["team-a","team-b"]',),
    "nothing optional": (
        "networkPolicy.jobs.enabled=false",
        "networkPolicy.operator.enabled=false",
        "crds.enabled=false",
        "rbac.aggregate=false",
        "admission.workerPods=false",
        "admission.children=false",
    ),
}


@pytest.fixture(params=VARIANTS, scope="module")
def objects(request, render):
    return render(*VARIANTS[request.param])


def of_kind(objects, *kinds):
    return [obj for obj in objects if obj["kind"] in kinds]


def the(objects, kind, name=None):
    (found,) = [obj for obj in of_kind(objects, kind) if name in (None, obj["metadata"]["name"])]
    return found


def rules(objects):
    return [rule for role in of_kind(objects, "ClusterRole", "Role") for rule in role["rules"]]


def pod_specs(objects):
    return [obj["spec"]["template"]["spec"] for obj in of_kind(objects, "Deployment")] + [
        obj["spec"] for obj in of_kind(objects, "Pod")
    ]


def test_objects_are_whole_and_unlike(objects):
    keys = [(obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"]) for obj in objects]
    assert len(keys) == len(set(keys))
    assert all(obj["apiVersion"] and obj["metadata"]["labels"]["app.kubernetes.io/name"] for obj in objects)


def test_pods_satisfy_pod_security_restricted(objects):
    for pod in pod_specs(objects):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(set(volume) <= {"name", "emptyDir"} for volume in pod.get("volumes", ()))
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]


def test_no_right_is_a_wildcard(objects):
    for rule in rules(objects):
        assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}


def test_secrets_can_be_created_and_one_of_them_read_and_replaced(objects):
    of_secrets = [rule for rule in rules(objects) if "secrets" in rule["resources"]]
    assert of_secrets == [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": ["trainwright-reports-ca"],
            "verbs": ["get", "update"],
        },
    ]
    own = [role for role in of_kind(objects, "Role") if role["metadata"]["namespace"] == "trainwright-system"]
    assert [role for role in own if any("secrets" in rule["resources"] for rule in role["rules"])] == own


def test_what_the_operator_may_do(render):
    rights = {
        (group, resource): tuple(rule["verbs"])
        for rule in the(render(), "ClusterRole", "trainwright")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rights == {
        ("authentication.k8s.io", "tokenreviews"): ("create",),
        ("trainwright.dev", "trainingclasses"): ("list",),
        ("", "namespaces"): ("get",),
        ("coordination.k8s.io", "leases"): ("get",),
        ("trainwright.dev", "trainingjobs"): ("list", "watch", "delete"),
        ("trainwright.dev", "trainingjobs/status"): ("update",),
        ("", "pods"): ("list", "watch", "create", "delete"),
        ("", "configmaps"): ("create",),
        ("", "services"): ("create",),
        ("networking.k8s.io", "networkpolicies"): ("create",),
        ("", "events"): ("list", "create"),
        ("scheduling.k8s.io", "podgroups"): ("create",),
        ("scheduling.volcano.sh", "podgroups"): ("create",),
        ("scheduling.x-k8s.io", "podgroups"): ("create",),
        ("visibility.kueue.x-k8s.io", "localqueues/pendingworkloads"): ("get",),
    }


def test_with_namespaces_named_only_token_reviews_classes_and_leases_are_cluster_wide(render):
    objects = render(*VARIANTS["two namespaces"])
    assert the(objects, "ClusterRole", "trainwright")["rules"] == [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": ["trainwright.dev"], "resources": ["trainingclasses"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]},
    ]
    roles = {role["metadata"]["namespace"] for role in of_kind(objects, "Role")}
    assert roles == {"trainwright-system", "team-a", "team-b"}
    assert the(objects, "ConfigMap")["data"]["TRAINWRIGHT_NAMESPACES"] == "team-a,team-b"


def test_every_binding_binds_a_role_that_exists_to_an_account_that_exists(objects):
    account = the(objects, "ServiceAccount")["metadata"]["name"]
    roles = {(role["kind"], role["metadata"]["name"]) for role in of_kind(objects, "Role", "ClusterRole")}
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in roles
        (subject,) = binding["subjects"]
        assert subject == {"kind": "ServiceAccount", "name": account, "namespace": "trainwright-system"}


@pytest.mark.parametrize(
    ("guarded", "values", "number"),
    [
        ("worker-pods", (), 1),
        ("worker-pods", ("admission.workerPods=false",), 0),
        ("children", (), 1),
        ("children", ("admission.children=false",), 0),
    ],
)
def test_what_belongs_to_a_job_is_guarded_by_a_policy_that_is_bound(render, guarded, values, number):
    objects = render(*values)
    policies, bindings = (
        [obj for obj in of_kind(objects, kind) if obj["metadata"]["name"].endswith(f"-{guarded}")]
        for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    )
    assert len(policies) == number
    assert [binding["spec"]["policyName"] for binding in bindings] == [each["metadata"]["name"] for each in policies]
    for policy in policies:
        (selected,) = policy["spec"]["matchConstraints"]["objectSelector"]["matchExpressions"]
        assert selected["key"] in worker_labels("digits", 0, 1)


def test_the_operator_knows_every_setting_and_reads_it(objects, monkeypatch):
    data = the(objects, "ConfigMap", "trainwright")["data"]
    known = {f"TRAINWRIGHT_{name.upper()}" for name in OperatorSettings.model_fields}
    assert set(data) <= known
    assert all(isinstance(value, str) for value in data.values())
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    settings = OperatorSettings()
    assert settings.worker_image == "trainwright/worker:0.1.0"
    assert settings.reports_service == "trainwright-reports"
    assert {settings.reports_service} <= {service["metadata"]["name"] for service in of_kind(objects, "Service")}


DIGEST = f"sha256:{'0a' * 32}"


@pytest.mark.parametrize(
    ("values", "operator", "worker"),
    [
        ((), "trainwright/operator:0.1.0", "trainwright/worker:0.1.0"),
        (('image.operator.tag="a"',), "trainwright/operator:a", "trainwright/worker:0.1.0"),
        ((f'image.operator.digest="{DIGEST}"',), f"trainwright/operator@{DIGEST}", "trainwright/worker:0.1.0"),
        (
            ('image.registry="registry.example.com:5000/mirror"', f'image.worker={{"digest":"{DIGEST}","tag":"a"}}'),
            "registry.example.com:5000/mirror/trainwright/operator:0.1.0",
            f"registry.example.com:5000/mirror/trainwright/worker@{DIGEST}",
        ),
    ],
)
def test_images_are_named_by_registry_repository_and_tag_or_digest(render, values, operator, worker):
    objects = render(*values)
    named = {container["image"] for pod in pod_specs(objects) for container in pod["containers"]}
    assert named == {operator}
    assert the(objects, "ConfigMap", "trainwright")["data"]["TRAINWRIGHT_WORKER_IMAGE"] == worker


def test_variables_of_the_pod_are_known_too(objects):
    (container,) = the(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    own = {variable["name"] for variable in container["env"]} - {"HTTPS_PROXY"}
    assert own <= {f"TRAINWRIGHT_{name.upper()}" for name in OperatorSettings.model_fields}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"reports": OperatorSettings().reports_port, "metrics": OperatorSettings().health_port}


def test_the_lease_that_is_taken_is_the_one_that_may_be(objects):
    name = the(objects, "ConfigMap", "trainwright")["data"]["TRAINWRIGHT_LEASE_NAME"]
    named = [rule for rule in rules(objects) if "leases" in rule["resources"] and "resourceNames" in rule]
    assert [rule["resourceNames"] for rule in named] == [[name]]


def test_selectors_find_the_pods(objects):
    labels = the(objects, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    assert the(objects, "Deployment")["spec"]["selector"]["matchLabels"].items() <= labels
    for obj in of_kind(objects, "Service"):
        assert obj["spec"]["selector"].items() <= labels
    for obj in of_kind(objects, "NetworkPolicy"):
        assert obj["spec"]["podSelector"]["matchLabels"].items() <= labels
    for obj in of_kind(objects, "PodDisruptionBudget"):
        assert obj["spec"]["selector"]["matchLabels"].items() <= labels
    for obj in of_kind(objects, "ServiceMonitor"):
        (metrics,) = [
            service
            for service in of_kind(objects, "Service")
            if obj["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        ]
        assert [port["name"] for port in metrics["spec"]["ports"]] == ["metrics"]


def test_every_rank_of_a_worker_is_scraped(render):
    monitor = the(render(*EVERYTHING), "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (kept,) = endpoint["relabelings"]
    wide = spec(workers={"processesPerWorker": 64}, training={"epochs": 1, "globalBatchSize": 64})
    pod = worker_pod("team", "digits", UID, wide, SETTINGS, "config", WorkerSlot(0, 1, 1))
    (container,) = pod["spec"]["containers"]
    names = [port["name"] for port in container["ports"]]
    assert len(names) == 64
    assert all(re.fullmatch(kept["regex"], name) for name in names)
    assert not re.fullmatch(kept["regex"], "metrics-http")
    assert kept["sourceLabels"] == ["__meta_kubernetes_pod_container_port_name"]
    assert monitor["spec"]["selector"]["matchExpressions"][0]["key"] in pod["metadata"]["labels"]


def test_a_changed_setting_replaces_the_pods(render):
    def annotation(*values):
        template = the(render(*values), "Deployment")["spec"]["template"]
        return template["metadata"]["annotations"]["trainwright.dev/config-hash"]

    assert annotation() == annotation("replicas=2")
    assert annotation() != annotation('log.level="debug"')


def installed_definitions(objects):
    return [obj for obj in objects if obj["metadata"]["name"].endswith(".trainwright.dev")]


def test_the_crds_and_their_policies_are_rendered_unharmed(render):
    rendered = sorted(installed_definitions(render()), key=lambda obj: obj["metadata"]["name"], reverse=True)
    assert [obj["kind"] for obj in rendered] == [definition["kind"] for definition in definitions()]
    assert [obj["spec"] for obj in rendered] == [definition["spec"] for definition in definitions()]
    assert all(obj["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for obj in rendered)


def test_the_crd_and_its_policy_may_go_with_the_release_or_stay_out_of_it(render):
    assert not any("annotations" in obj["metadata"] for obj in installed_definitions(render("crds.keep=false")))
    assert installed_definitions(render("crds.enabled=false")) == []


def test_classes_of_the_values_are_rendered_as_they_are(render):
    spec = {"default": True, "limits": {"perNamespace": {"gpus": 8}}}
    found = of_kind(render(f"trainingClasses={json.dumps({'gpu': spec})}"), "TrainingClass")
    assert [(each["metadata"]["name"], each["spec"]) for each in found] == [("gpu", spec)]
    assert not isinstance(read_class(found[0]["spec"]), str)
    assert of_kind(render(), "TrainingClass") == []


def test_a_single_replica_has_no_disruption_budget(render):
    assert of_kind(render(), "PodDisruptionBudget") == []
    assert the(render("replicas=2"), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_another_release_name_gives_other_object_names(render):
    names = {obj["metadata"]["name"] for obj in render("crds.enabled=false", release="blue")}
    assert all(name.startswith("blue-trainwright") for name in names)


def test_two_releases_of_one_name_share_nothing_where_one_has_another_full_name(render):
    def names(*values):
        objects = render(*EVERYTHING, 'watchNamespaces=["team-a"]', "crds.enabled=false", *values)
        return {(obj["kind"], obj["metadata"]["name"]) for obj in objects}

    others = names('fullnameOverride="blue"')
    assert all(re.match(r"blue\b", name) for _, name in others)
    assert len(others) == len(names())


@pytest.mark.parametrize(
    ("values", "rendered"),
    [
        ({}, True),
        ({"trainwright": {"enabled": True}}, True),
        ({"trainwright": {"enabled": False}}, False),
        ({"tags": {"training": False}}, False),
    ],
)
def test_another_chart_may_depend_on_it_under_a_condition(helm, tmp_path, values, rendered):
    needed = {"name": "trainwright", "version": "0.1.0", "condition": "trainwright.enabled", "tags": ["training"]}
    parent = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [needed]}
    (tmp_path / "Chart.yaml").write_text(json.dumps(parent))
    (tmp_path / "values.yaml").write_text(json.dumps(values))
    shutil.copytree(CHART, tmp_path / "charts" / "trainwright")
    done = helm("template", "release", str(tmp_path), KUBE_VERSION)
    assert done.returncode == 0, done.stderr
    assert ("release-trainwright" in done.stdout) is rendered


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("replicaz=2", "replicaz"),
        ("replicas=0", "replicas"),
        ('image.operator.tga="1"', "tga"),
        ('image.operator.digest="0a0a"', "digest"),
        ('image.worker.digest="sha256:0A"', "digest"),
        ('image.registry="https://registry.example.com"', "registry"),
        ('image.registry="registry.example.com/"', "registry"),
        ('log.level="loud"', "level"),
        ('watchNamespaces="team-a"', "watchNamespaces"),
        ('watchNamespaces=["Team A"]', "watchNamespaces"),
        ('serviceAccounts.allow=["trainer"]', "allow"),
        ('metrics.rules.enabled="yes"', "enabled"),
        ("statusIntervalSeconds=0", "statusIntervalSeconds"),
        ('resources.limit={"memory":"1Gi"}', "limit"),
        ("networkPolicy.job.enabled=true", "job"),
        ('enabled="yes"', "enabled"),
        ('fullnameOverride="Blue Team"', "fullnameOverride"),
        (f'fullnameOverride="{"a" * 41}"', "fullnameOverride"),
    ],
)
def test_wrong_values_are_refused(helm, value, words):
    done = helm("template", "trainwright", str(CHART), KUBE_VERSION, f"--set-json={value}")
    assert done.returncode != 0
    assert words in done.stderr


def test_names_may_have_dots_where_kubernetes_allows_them(render):
    objects = render('image.pullSecrets=["my.registry"]', 'serviceAccounts.allowed=["s3.reader"]')
    assert the(objects, "Deployment")["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "my.registry"}]


@pytest.mark.parametrize(("grace", "drain"), [(30, "15"), (61, "30.5")])
def test_passes_get_half_of_the_time_that_the_operator_has_to_end(render, grace, drain):
    objects = render(f"terminationGracePeriodSeconds={grace}")
    settings = [obj["data"] for obj in of_kind(objects, "ConfigMap") if "TRAINWRIGHT_DRAIN_TIMEOUT" in obj["data"]]
    assert [each["TRAINWRIGHT_DRAIN_TIMEOUT"] for each in settings] == [drain]


@pytest.mark.parametrize("scraped", [True, False])
def test_an_operator_that_nothing_scrapes_is_not_missed(render, scraped):
    objects = render("metrics.rules.enabled=true", f"metrics.serviceMonitor.enabled={str(scraped).lower()}")
    groups = the(objects, "PrometheusRule")["spec"]["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    assert ("TrainwrightOperatorDown" in alerts) is scraped
    assert "TrainwrightOperatorBlind" in alerts


def expression(objects, alert):
    groups = the(objects, "PrometheusRule")["spec"]["groups"]
    (found,) = [rule["expr"] for group in groups for rule in group["rules"] if rule["alert"] == alert]
    return found


def scraped(*jobs, **gauges):
    """Return what a replica is scraped for, by name."""
    metrics = Metrics()
    metrics.observe(lambda: jobs, lambda: 0, lambda: 0.0)
    for name, value in gauges.items():
        getattr(metrics, name).set(value)
    return {metric.name: metric.samples[0].value for metric in metrics.registry.collect() if len(metric.samples) == 1}


def holds(asked, *replicas):
    """Return whether an expression does. All replicas are of one release, and all samples of one job: `max` is over replicas."""

    def most(found):
        return str(max(eval(found[1], {}, replica) for replica in replicas))  # noqa: S307 - the chart's own words

    return eval(re.sub(r"max(?: by \(.*?\) )?\((.*?)\)", most, " ".join(asked.split())))  # noqa: S307


@pytest.mark.parametrize(
    ("replicas", "blind"),
    [
        ([(1, 1)], False),
        ([(0, 0), (1, 1)], False),
        ([(1, 0)], True),  # it cannot list
        ([(0, 0)], True),  # it gets no Lease, or no answer at all
        ([(0, 0), (0, 0)], True),
        ([(0, 0), (1, 0)], True),
    ],
)
def test_replicas_of_which_none_leads_and_sees_are_missed(render, replicas, blind):
    asked = expression(render("metrics.rules.enabled=true"), "TrainwrightOperatorBlind")
    assert holds(asked, *(scraped(leading=leading, synced=synced) for leading, synced in replicas)) is blind


@pytest.mark.parametrize(
    ("workers", "incomplete"),
    [
        ({"desired": 4, "ready": 4}, False),
        ({"desired": 4, "ready": 3}, True),
        ({"desired": 4, "minimum": 3, "ready": 3}, False),
        ({"desired": 4, "minimum": 3, "ready": 2}, True),
    ],
)
def test_a_job_that_trains_with_its_least_is_not_incomplete(render, workers, incomplete):
    asked = expression(render("metrics.rules.enabled=true"), "TrainwrightJobIncomplete")
    job = {"metadata": {"namespace": "a", "name": "b"}, "status": {"phase": "Running", "workers": workers}}
    assert holds(asked, scraped(job)) is incomplete


def test_every_value_is_explained_and_in_the_schema():
    lines = (CHART / "values.yaml").read_text().splitlines()
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load("\n".join(lines))
    assert set(values) <= set(schema["properties"])
    unexplained = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if re.match(r"^ *\w+: \S", line) and not above.lstrip().startswith("#") and line.lstrip() not in _GROUPED
    ]
    assert unexplained == []


_GROUPED = {"cpu: 50m", "memory: 128Mi", "memory: 512Mi", 'grafana_dashboard: "1"'}


def test_lint(helm):
    done = helm("lint", "--strict", KUBE_VERSION, str(CHART))
    assert done.returncode == 0, done.stdout


def test_dashboard_and_alerts_ask_for_metrics_that_exist(render):
    metrics = Metrics()
    metrics.observe(
        lambda: [
            {
                "metadata": {"namespace": "a", "name": "b"},
                "status": {"metrics": {"evaluation": {"split": "test", "metrics": {"loss": 1.0}}}},
            }
        ],
        lambda: 0,
        lambda: 0.0,
    )
    known = set(re.findall(r"# TYPE (\w+)", metrics.text().decode()))
    known |= {f"{name}_{part}" for name in known for part in ("bucket", "count", "sum")}
    objects = render(*EVERYTHING)
    dashboard = json.loads(the(objects, "ConfigMap", "trainwright-dashboard")["data"]["trainwright.json"])
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    groups = the(objects, "PrometheusRule")["spec"]["groups"]
    asked += [rule["expr"] for group in groups for rule in group["rules"]]
    used = {name for expression in asked for name in re.findall(r"\btrainwright_\w+", expression)}
    assert len(used) > 15
    assert used <= known
