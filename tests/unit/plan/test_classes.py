"""TrainingClasses in the planner: which class a job has, what it fills in, refuses and limits, and what stays recorded."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from allowlists import CASES, DEFAULTS
from hypothesis import given, settings
from hypothesis import strategies as st
from situations import NOW, job, kinds, observed, pod, running_job, spec, status_after, truth

from trainwright.api.status import ConditionType, Phase
from trainwright.api.training_class import TrainingClassSpec
from trainwright.manifests import load
from trainwright.plan import plan
from trainwright.plan.classes import LOOK_AGAIN, is_undecided, resolve
from trainwright.plan.observe import read_class, read_neighbour
from trainwright.plan.types import TrainingClass


def klass(name="gold", **fields):
    return read_class({"metadata": {"name": name}, "spec": fields})


def seen(*classes, workers=None, namespace_class=None, neighbours=(), given=None, **fields):
    written = spec(workers=workers or {}, **fields)
    return replace(
        observed(given or replace(job(), spec=written)),
        classes=classes,
        namespace_class=namespace_class,
        neighbours=tuple(read_neighbour(each) for each in neighbours),
    )


def neighbour(name, minutes=-10, *, attempt=0, phase=None, gpus=0, count=1, klass=None, filled=None, **fields):
    limits = {"nvidia.com/gpu": gpus} if gpus else {}
    made = NOW + timedelta(minutes=minutes)
    status = {"attempt": attempt, "phase": phase, "startedAt": "x" if attempt else None}
    if attempt:
        status["class"] = {"name": klass, "filled": filled or {}}
    return {
        "metadata": {"uid": name, "creationTimestamp": made.strftime("%Y-%m-%dT%H:%M:%SZ"), "generation": 1},
        "spec": {"class": klass, "workers": {"count": count, "resources": {"limits": limits}}, **fields},
        "status": status,
    }


def refusal(observation):
    decided = plan(observation)
    assert truth(decided.status, ConditionType.ACCEPTED) == "False"
    assert not decided.create
    assert decided.status.attempt == 0
    assert decided.requeue_after == LOOK_AGAIN
    return decided.status.condition(ConditionType.ACCEPTED).reason, decided.status.message


def test_a_job_has_the_class_that_it_names_else_that_of_its_namespace_else_the_default():
    classes = (klass("gold"), klass("team"), klass("base", default=True))
    for fields, expected in (
        ({"class": "gold"}, "gold"),
        ({"class": "gold", "namespace_class": "team"}, "gold"),
        ({"namespace_class": "team"}, "team"),
        ({}, "base"),
    ):
        observation = seen(*classes, **fields)
        assert resolve(observation).applied.name == expected
        assert plan(observation).status.class_.name == expected
    assert resolve(seen(klass("gold"))).applied is None


@pytest.mark.parametrize(
    ("observation", "reason", "words"),
    [
        (seen(klass("a"), klass("b"), **{"class": "c"}), "ClassNotFound", "no TrainingClass c (there are: a, b)"),
        (seen(**{"class": "c"}), "ClassNotFound", "there are: none"),
        (seen(klass("a"), namespace_class="c"), "ClassNotFound", "label trainwright.dev/class of namespace"),
        (
            seen(klass("a", default=True), klass("b", default=True)),
            "SeveralDefaultClasses",
            "the TrainingClasses a and b are all the default",
        ),
        (
            seen(klass("a", default=True, limits={"perJob": {"workers": 0}})),
            "InvalidClass",
            "TrainingClass a is invalid: spec.limits.perJob.workers: must be at least 1",
        ),
        (
            seen(klass("a", default=True, defaults={"scheduling": {"priority": "high"}})),
            "InvalidSpec",
            "(with the defaults of TrainingClass a)",
        ),
    ],
    ids=["missing", "none", "label", "two defaults", "invalid", "contradiction"],
)
def test_why_a_job_gets_no_class(observation, reason, words):
    decided = plan(observation)
    assert decided.status.condition(ConditionType.ACCEPTED).reason == reason
    assert words in decided.status.message
    assert not decided.create


GOLD = {
    "workers": {
        "image": "registry.example.com/ml/worker:1",
        "env": [{"name": "HF_HOME", "value": "/data"}, {"name": "MODE", "value": "class"}],
        "nodeSelector": {"pool": "gpu", "zone": "a"},
        "resources": {"requests": {"cpu": "4"}, "limits": {"cpu": "8", "nvidia.com/gpu": 1}},
    },
    "checkpoint": {"persistentVolumeClaim": "checkpoints"},
    "restart": {"limit": 9},
    "ttlSecondsAfterFinished": 600,
}


def test_a_class_fills_in_what_the_job_does_not_say():
    effective = resolve(seen(klass(default=True, defaults=GOLD))).observed.job
    assert effective.spec.workers.image == "registry.example.com/ml/worker:1"
    assert effective.spec.checkpoint.persistent_volume_claim == "checkpoints"
    assert effective.spec.restart.limit == 9
    assert effective.time_to_live == effective.spec.ttl_seconds_after_finished == 600


def test_what_the_job_says_itself_takes_precedence_item_by_item():
    own = {
        "image": "mine",
        "env": [{"name": "MODE", "value": "job"}],
        "nodeSelector": {"zone": "b"},
        "resources": {"limits": {"cpu": "1"}},
    }
    observation = seen(
        klass(default=True, defaults=GOLD), workers=own, checkpoint={"uri": "s3://bucket/x"}, restart={"limit": 1}
    )
    terms = resolve(observation)
    got = terms.observed.job.spec.workers.to_wire()
    assert got["image"] == "mine"
    assert {each["name"]: each["value"] for each in got["env"]} == {"MODE": "job", "HF_HOME": "/data"}
    assert got["nodeSelector"] == {"zone": "b", "pool": "gpu"}
    assert got["resources"] == {"limits": {"cpu": "1", "nvidia.com/gpu": 1}}
    assert terms.observed.job.spec.checkpoint.persistent_volume_claim is None
    assert terms.observed.job.spec.restart.limit == 1
    assert sorted(terms.applied.filled) == [
        "ttlSecondsAfterFinished",
        "workers.env",
        "workers.nodeSelector",
        "workers.resources",
    ]


@pytest.mark.parametrize("change", ["unchanged", "changed", "deleted"])
def test_what_was_filled_in_holds_after_the_start_whatever_becomes_of_the_class(change):
    first = seen(klass(default=True, defaults=GOLD))
    begun = plan(first)
    started = replace(first.job, status=begun.status)
    classes = {
        "unchanged": first.classes,
        "changed": (klass(default=True, defaults={"workers": {"image": "other"}}, allowed={"images": []}),),
        "deleted": (),
    }[change]
    again = replace(first, job=started, classes=classes)
    assert resolve(again).observed.job.spec == resolve(first).observed.job.spec
    second = plan(again)
    made = next(each for each in second.create if each["kind"] == "Pod")
    assert made["spec"]["containers"][0]["image"] == "registry.example.com/ml/worker:1"
    settled = plan(replace(again, job=replace(started, status=status_after(begun, second))))
    assert settled.status is None
    assert plan(first) == begun


AMOUNTS = st.dictionaries(st.sampled_from(["cpu", "memory", "nvidia.com/gpu"]), st.integers(1, 9))
KEYS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"))
WORKERS = st.fixed_dictionaries(
    {},
    optional={
        "image": st.sampled_from(["a", "b"]),
        "resources": st.fixed_dictionaries({"limits": AMOUNTS}),
        "nodeSelector": KEYS,
        "env": KEYS.map(lambda of: [{"name": name, "value": value} for name, value in of.items()]),
        "priorityClassName": st.sampled_from(["low", "high"]),
    },
)
PARTS = st.fixed_dictionaries(
    {"workers": WORKERS},
    optional={
        "ttlSecondsAfterFinished": st.integers(0, 9),
        "restart": st.fixed_dictionaries({"limit": st.integers(0, 5)}),
        "checkpoint": st.sampled_from([{"uri": "s3://bucket/x"}, {"persistentVolumeClaim": "claim"}]),
    },
)


@settings(max_examples=100, deadline=None)
@given(PARTS, PARTS)
def test_the_recorded_values_give_the_same_spec_as_the_class_and_none_of_the_job_is_lost(defaults, own):
    first = seen(klass(default=True, defaults=defaults), **own)
    terms = resolve(first)
    begun = plan(first)
    assert begun == plan(first)
    later = replace(first, job=replace(first.job, status=begun.status), classes=())
    assert resolve(later).observed.job == replace(terms.observed.job, status=begun.status)
    got = terms.observed.job.spec.workers.to_wire()
    said = first.job.spec.workers.to_wire()
    assert {**got.get("nodeSelector", {}), **said.get("nodeSelector", {})} == got.get("nodeSelector", {})
    assert all(variable in got["env"] for variable in said.get("env", ()))
    assert said.get("image", got.get("image")) == got.get("image")
    assert got.get("nodeSelector", {}).keys() >= defaults["workers"].get("nodeSelector", {}).keys()


def test_the_example_in_the_documentation_is_a_class():
    text = (Path(__file__).resolve().parents[3] / "docs" / "classes.md").read_text()
    (example,) = load(text.split("```yaml")[1].split("```")[0])
    read = read_class(example)
    assert isinstance(read, TrainingClass)
    assert isinstance(read.spec, TrainingClassSpec), read.spec


def test_what_a_class_adds_to_pods_is_recorded_and_replaces_nothing():
    pods = {
        "labels": {"team": "vision", "app.kubernetes.io/managed-by": "somebody"},
        "annotations": {"sidecar.istio.io/inject": "false"},
        "envFrom": [{"configMapRef": {"name": "proxy"}}, {"secretRef": {"name": "tokens", "optional": True}}],
    }
    first = seen(klass(default=True, pods=pods))
    later = replace(first, job=replace(first.job, status=plan(first).status), classes=())
    made = next(each for each in plan(later).create if each["kind"] == "Pod")
    assert made["metadata"]["labels"]["team"] == "vision"
    assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "trainwright"
    assert made["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    assert made["spec"]["containers"][0]["envFrom"] == [
        {"configMapRef": {"name": "proxy"}},
        {"secretRef": {"name": "tokens", "optional": True}},
    ]


def test_a_class_may_not_add_the_labels_by_which_pods_are_found():
    assert "reserved" in klass(pods={"labels": {"trainwright.dev/job-name": "other"}}).spec


def test_the_status_digests_the_effective_spec_and_a_change_of_the_job_itself_is_still_refused():
    first = seen(klass(default=True, defaults=GOLD))
    started = replace(first.job, status=plan(first).status)
    other = replace(started, spec=spec(checkpoint={"persistentVolumeClaim": "mine"}), generation=2)
    decided = plan(replace(first, job=other))
    assert decided.status.condition(ConditionType.ACCEPTED).reason == "SpecChanged"
    assert "spec.checkpoint" in decided.status.message


@pytest.mark.parametrize(("image", "refused"), [("reg.io/ml/a", False), ("evil", True)])
def test_an_edit_of_a_started_job_is_checked_against_its_class(image, refused):
    first = seen(klass(default=True, allowed={"images": ["reg.io/ml/*"]}))
    started = replace(first.job, status=plan(first).status)
    assert not is_undecided(replace(first, job=started))
    edited = replace(first, job=replace(started, spec=spec(workers={"image": image}, suspend=True), generation=2))
    assert is_undecided(edited)
    accepted = plan(edited).status.condition(ConditionType.ACCEPTED)
    assert (accepted.reason, accepted.status) == (("NotAllowed", "False") if refused else ("Accepted", "True"))


def test_a_job_that_started_without_a_class_never_gets_one():
    running = running_job()
    assert (
        resolve(replace(observed(running, pod(0), pod(1)), classes=(klass(default=True, defaults=GOLD),))).applied
        is None
    )


@pytest.mark.parametrize(("allowed", "workers", "more", "refused"), CASES)
def test_allowlists(allowed, workers, more, refused):
    gold = klass(default=True, allowed=allowed, defaults=DEFAULTS)
    observation = seen(gold, workers=workers, **more)
    if refused is None:
        assert plan(observation).status.phase == Phase.PENDING
        return
    reason, message = refusal(observation)
    assert reason == "NotAllowed"
    assert refused in message
    assert "TrainingClass gold" in message


def test_a_class_for_other_namespaces_is_refused():
    reason, message = refusal(seen(klass(default=True, namespaces=["team-*"])))
    assert (reason, "is not for namespace" in message) == ("NotAllowed", True)


GPU = {"limits": {"nvidia.com/gpu": 2}}


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"perJob": {"workers": 3}}, "spec.workers.count: 4 workers are more than the 3"),
        ({"perJob": {"gpus": 7}}, "spec.workers.resources.limits: 8 GPUs are more than the 7 that TrainingClass gold"),
        ({"perNamespace": {"gpus": 7}}, "allows all jobs of a namespace"),
    ],
)
def test_a_job_that_could_never_run_is_refused(limits, words):
    reason, message = refusal(seen(klass(default=True, limits=limits), workers={"count": 4, "resources": GPU}))
    assert (reason, words in message) == ("NotAllowed", True), message


def test_a_started_job_may_not_grow_beyond_its_class():
    first = seen(klass(default=True, limits={"perJob": {"workers": 2}}), checkpoint={"persistentVolumeClaim": "c"})
    started = replace(first.job, status=plan(first).status)
    grown = replace(started, generation=2, spec=spec(workers={"count": 3}, checkpoint={"persistentVolumeClaim": "c"}))
    decided = plan(replace(first, job=grown))
    assert decided.status.condition(ConditionType.ACCEPTED).reason == "NotAllowed"
    assert decided.status.attempt == 1


LIMITED = {"perNamespace": {"gpus": 8}}


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([neighbour("a", attempt=1, phase="Running", gpus=6, klass="gold")], None),
        ([neighbour("a", attempt=1, phase="Running", gpus=8, klass="gold")], "uses 8 of 8 GPUs of class gold"),
        ([neighbour("a", attempt=1, phase="Running", gpus=8, klass="other")], None),
        ([neighbour("a", attempt=1, phase="Succeeded", gpus=8, klass="gold")], None),
        ([neighbour("a", attempt=1, phase="Suspended", gpus=8, klass="gold", suspend=True)], None),
        ([neighbour("a", gpus=8)], "jobs that were created earlier wait for 8"),
        ([neighbour("a", minutes=1, gpus=8)], None),
        ([neighbour("a", minutes=0, gpus=8)], "wait for 8"),
        ([neighbour("z", minutes=0, gpus=8)], None),
        ([neighbour("a", gpus=8, suspend=True)], None),
        (
            [
                neighbour(
                    "a",
                    attempt=1,
                    phase="Running",
                    klass="gold",
                    filled={"workers.resources": '{"limits": {"nvidia.com/gpu": 8}}'},
                )
            ],
            "uses 8 of 8",
        ),
    ],
)
def test_a_job_waits_while_its_namespace_is_full(others, words):
    waiting = replace(job(), created_at=NOW, uid="m", spec=spec(workers={"resources": GPU}))
    observation = seen(klass(default=True, limits=LIMITED), neighbours=others, given=waiting)
    decided = plan(observation)
    if words is None:
        assert decided.status.attempt == 1
        return
    assert (decided.status.phase, decided.status.reason, decided.status.attempt) == (
        Phase.QUEUED,
        "NamespaceLimit",
        0,
    )
    assert words in decided.status.message
    assert kinds(decided) == []
    held = replace(waiting, status=decided.status)
    again = plan(replace(observation, job=held))
    assert (again.status, again.create, again.requeue_after) == (None, (), LOOK_AGAIN)
    freed = plan(replace(observation, job=held, neighbours=()))
    assert (freed.status.phase, freed.status.attempt, freed.status.started_at) == (Phase.PENDING, 1, NOW)


def test_of_jobs_that_are_looked_at_at_once_only_as_many_start_as_fit():
    manifests = [neighbour(f"job-{i}", minutes=i % 3, gpus=2) for i in range(7)]
    started = []
    for i, manifest in enumerate(manifests):
        own = replace(
            job(),
            uid=f"job-{i}",
            created_at=NOW + timedelta(minutes=i % 3),
            spec=spec(workers={"resources": GPU}),
        )
        observation = seen(klass(default=True, limits=LIMITED), neighbours=manifests, given=own)
        started += [manifest["metadata"]["uid"]] if plan(observation).status.attempt else []
    assert sorted(started) == ["job-0", "job-1", "job-3", "job-6"]
