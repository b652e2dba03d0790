"""The ValidatingAdmissionPolicy: the rules between fields, and the fields that may not change after the workers have started.

It validates writes of a job's spec only. The same rules in the CRD would also run on status writes, which are nearly all
writes. A refusal lists every mistake with its field. This module does no I/O.
"""

from collections.abc import Iterator
from typing import Any, Final

from trainwright.api.base import quoted
from trainwright.api.class_rules import in_cel_list, too_many_workers_in_cel
from trainwright.api.crd import spec_schema
from trainwright.api.immutable import (
    BY_NAME,
    COUNT,
    COUNT_REFUSAL,
    PLACEMENT_REFUSAL,
    REFUSAL,
    fixed_fields,
    placement_fields,
)
from trainwright.api.names import API_VERSION, CLASS_KIND, CLASS_LABEL, CLASS_PLURAL, GROUP, PLURAL, VERSION
from trainwright.api.schema import RULES, Schema, levels

_NAME: Final = f"{PLURAL}.{GROUP}"
_CLASSES: Final = f"{CLASS_PLURAL}.{GROUP}"
_API_VERSION: Final = "admissionregistration.k8s.io/v1"
_WRITES: Final = {
    "resourceRules": [
        {
            "apiGroups": [GROUP],
            "apiVersions": [VERSION],
            "operations": ["CREATE", "UPDATE"],
            "resources": [PLURAL],
        }
    ]
}
# Labels and finalizers can be changed even if a newer version of the policy refuses the stored spec.
_SPEC_IS_WRITTEN: Final = {
    "name": "the-spec-is-written",
    "expression": "request.operation == 'CREATE' || object.spec != oldObject.spec",
}
_STARTED: Final = {
    "name": "started",
    "expression": "oldObject != null && oldObject.?status.?attempt.orValue(0) >= 1",
}


def policy() -> dict[str, Any]:
    """Return the ValidatingAdmissionPolicy of TrainingJob."""
    mistakes = {path: _mistakes(path, level[RULES]) for path, level in _levels_with_rules()}
    return {
        "apiVersion": _API_VERSION,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": _NAME},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": _WRITES,
            "matchConditions": [_SPEC_IS_WRITTEN],
            "variables": [
                *({"name": _variable(path), "expression": expression} for path, expression in mistakes.items()),
                {"name": "mistakes", "expression": " + ".join(f"variables.{_variable(path)}" for path in mistakes)},
                _STARTED,
                {"name": "changed", "expression": _changed(fixed_fields())},
                {"name": "moved", "expression": _changed(placement_fields())},
                {
                    # No worker runs, or all are told to stop. A launch is what a worker reports first.
                    "name": "idle",
                    "expression": "object.?spec.?suspend.orValue(false) || "
                    "oldObject.?status.?phase.orValue('') == 'Suspended' || "
                    "!oldObject.?status.?progress.?launch.hasValue()",
                },
            ],
            "validations": [
                {
                    "expression": "variables.mistakes.size() == 0",
                    "message": "fields of spec contradict each other",
                    "messageExpression": "variables.mistakes.join('; ')",
                    "reason": "Invalid",
                },
                {
                    "expression": "!variables.started || variables.changed.size() == 0",
                    "message": f"what is trained {REFUSAL}",
                    "messageExpression": f"variables.changed.join(', ') + ' {REFUSAL}'",
                    "reason": "Invalid",
                },
                {
                    "expression": "!variables.started || variables.idle || variables.moved.size() == 0",
                    "message": f"where the workers run {PLACEMENT_REFUSAL}",
                    "messageExpression": f"variables.moved.join(', ') + ' {PLACEMENT_REFUSAL}'",
                    "reason": "Invalid",
                },
                {"expression": _count_may_change(), "message": f"spec.{COUNT} {COUNT_REFUSAL}", "reason": "Invalid"},
            ],
        },
    }


def binding() -> dict[str, Any]:
    """Return the binding that enforces the policy."""
    return {
        "apiVersion": _API_VERSION,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": _NAME},
        "spec": {"policyName": _NAME, "validationActions": ["Deny"]},
    }


def class_policy() -> dict[str, Any]:
    """Return the ValidatingAdmissionPolicy that refuses what a job's TrainingClass does not allow.

    It is evaluated once for every class and applies if the class is the job's. It fails open, because the operator enforces
    all of it too: without the classes' definition, jobs can still be written.
    """
    return {
        "apiVersion": _API_VERSION,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": _CLASSES},
        "spec": {
            "failurePolicy": "Ignore",
            "paramKind": {"apiVersion": API_VERSION, "kind": CLASS_KIND},
            "matchConstraints": _WRITES,
            "matchConditions": [_SPEC_IS_WRITTEN],
            "variables": [
                {
                    "name": "named",
                    "expression": f"object.spec.?class.or(namespaceObject.metadata.?labels[?'{CLASS_LABEL}'])",
                },
                {
                    "name": "applies",
                    "expression": "variables.named.hasValue() ? variables.named.value() == params.metadata.name : "
                    "params.spec.?default.orValue(false)",
                },
                # A class that has changed since disturbs no started job, but an edit of where its workers run is checked anew.
                _STARTED,
                {"name": "moved", "expression": f"variables.started ? {_changed(placement_fields())} : []"},
                {
                    "name": "asks",
                    "expression": f"variables.started && variables.moved.size() == 0 ? [] : {in_cel_list()}",
                },
                {
                    "name": "grows",
                    "expression": "oldObject == null || object.spec.workers.count > oldObject.spec.workers.count || "
                    "!variables.started",
                },
                {"name": "size", "expression": f"variables.grows ? {too_many_workers_in_cel()} : []"},
                {"name": "refused", "expression": "variables.applies ? variables.asks + variables.size : []"},
            ],
            "validations": [
                {
                    "expression": "variables.refused.size() == 0",
                    "message": "the job's TrainingClass does not allow this",
                    "messageExpression": "variables.refused.join('; ')",
                    "reason": "Invalid",
                }
            ],
        },
    }


def class_binding() -> dict[str, Any]:
    """Return the binding that enforces the policy of the classes, with every class as a parameter."""
    return {
        "apiVersion": _API_VERSION,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": _CLASSES},
        "spec": {
            "policyName": _CLASSES,
            "paramRef": {"selector": {}, "parameterNotFoundAction": "Allow"},
            "validationActions": ["Deny"],
        },
    }


def _levels_with_rules() -> Iterator[tuple[str, Schema]]:
    return ((path, level) for path, level in levels(spec_schema(), "spec") if RULES in level)


def _variable(path: str) -> str:
    return path.replace("[]", "").replace(".", "_")


def _mistakes(path: str, rules: list[Schema]) -> str:
    """Return a CEL expression for the list of mistakes in the objects at a path. The rules refer to each object as `self`."""
    parent, is_list, within = path.partition("[]")
    if within:
        raise ValueError(f"{path}: rules on fields inside list items are not supported")
    first, *rest = parent.split(".")
    there = ".?".join((f"object.{first}", *rest)) if rest else f"optional.of(object.{first})"
    if is_list:
        items = f"{there}.orValue([])"
        number = f"string({items}.indexOf(self))"
        return " + ".join(
            f"{items}.filter(self, !({rule['rule']})).map(self, '{parent}[' + {number} + {quoted(']' + _complaint(rule))})"
            for rule in rules
        )
    found = ", ".join(f"({rule['rule']}) ? '' : {quoted(path + _complaint(rule))}" for rule in rules)
    return f"{there}.optMap(self, [{found}].filter(mistake, mistake != '')).orValue([])"


def _complaint(rule: Schema) -> str:
    return f"{rule.get('fieldPath', '')}: {rule['message']}"


def _changed(paths: list[str]) -> str:
    """Return a CEL expression for the list of those fields that changed. Setting or removing an optional field is a change."""
    named = (f"{_same(path)} ? '' : 'spec.{path}'" for path in paths)
    return f"[{', '.join(named)}].filter(path, path != '')"


def _same(path: str) -> str:
    *parents, last = path.split(".")
    new, old = (".".join((each, "spec", *parents, f"?{last}")) for each in ("object", "oldObject"))
    if path in BY_NAME:
        return f"({new}.hasValue() == {old}.hasValue() && sets.equivalent({new}.orValue([]), {old}.orValue([])))"
    return f"{new} == {old}"


def _count_may_change() -> str:
    """Return the CEL rule that refuses a new worker count if it would lose the training state."""
    return (
        "oldObject == null || object.spec.workers.count == oldObject.spec.workers.count || "
        "oldObject.?status.?progress.?step.orValue(0) == 0 || has(object.spec.checkpoint.persistentVolumeClaim) || "
        "has(object.spec.checkpoint.uri)"
    )
