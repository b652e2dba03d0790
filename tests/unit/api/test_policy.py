"""The admission policy, as far as it can be judged without an API server; tests/apiserver/test_parity.py has it judge."""

import re

from trainwright.api.crd import crd, spec_schema
from trainwright.api.policy import binding, policy
from trainwright.api.schema import RULES, levels

SPEC = policy()["spec"]
VARIABLES = {variable["name"]: variable["expression"] for variable in SPEC["variables"]}


def test_the_schema_has_no_rule_and_the_policy_has_them_all():
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert [path for path, level in levels(schema) if RULES in level] == []
    rules = [rule for _, level in levels(spec_schema()) for rule in level.get(RULES, ())]
    assert len(rules) > 50
    for rule in rules:
        assert any(f"({rule['rule']})" in expression for expression in VARIABLES.values())


def test_every_mistake_counts_once():
    summed = re.findall(r"variables\.(\w+)", VARIABLES["mistakes"])
    assert summed == [name for name in VARIABLES if name.startswith("spec")]


def test_fields_of_rules_exist():
    for _, level in levels(spec_schema()):
        for rule in level.get(RULES, ()):
            inner = level
            for name in rule.get("fieldPath", "").split(".")[1:]:
                inner = inner["properties"][name]


def test_every_rule_has_a_message_and_stands_on_one_line():
    rules = [rule for _, level in levels(spec_schema()) for rule in level.get(RULES, ())]
    assert all(rule["message"] and "\n" not in rule["rule"] for rule in rules)


def test_only_what_cannot_change_the_training_may_change_after_the_first_start():
    fixed, placement = (set(re.findall(r"'spec\.([\w.]+)'", VARIABLES[name])) for name in ("changed", "moved"))
    spec = spec_schema()["properties"]
    every = {*spec, *(f"workers.{name}" for name in spec["workers"]["properties"])} - {"workers"}
    deadlines = {"startDeadlineSeconds", "activeDeadlineSeconds", "ttlSecondsAfterFinished"}
    assert not fixed & placement
    assert every - fixed - placement == {
        "suspend",
        "restart",
        "budget",
        *deadlines,
        "workers.count",
        "workers.minCount",
    }
    assert {name for name in fixed if name.startswith("workers.")} == {"workers.processesPerWorker"}
    assert {name for name in placement if not name.startswith("workers.")} == {"scheduling", "tracking"}


def test_writes_of_the_status_are_not_judged():
    (rule,) = SPEC["matchConstraints"]["resourceRules"]
    assert rule["resources"] == ["trainingjobs"]


def test_what_cannot_be_judged_is_refused_and_the_policy_is_in_force():
    assert SPEC["failurePolicy"] == "Fail"
    assert binding()["spec"] == {"policyName": policy()["metadata"]["name"], "validationActions": ["Deny"]}
