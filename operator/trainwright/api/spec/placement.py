"""Placement of pods: the usual pod fields, with bounds on their size so that a job can be parsed in milliseconds."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from trainwright.api.base import Model

LabelKey = Annotated[
    str, Field(max_length=317, pattern=r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$")
]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?$")]
Namespace = Annotated[str, Field(min_length=1, max_length=63)]
NodeValue = Annotated[str, Field(max_length=253)]


def without_nulls(value: Any) -> Any:
    """Remove null values from a map, as the API server does."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32), BeforeValidator(without_nulls)]
Annotations = Annotated[
    dict[LabelKey, Annotated[str, Field(max_length=4_096)]], Field(max_length=32), BeforeValidator(without_nulls)
]
# There are no CEL rules on keys here, because they would run for every item of a list. Pod validation checks the keys.
SelectedLabels = Annotated[dict[str, LabelValue], Field(max_length=32), BeforeValidator(without_nulls)]


class Toleration(Model):
    """A taint that the workers accept, as in any pod."""

    key: str | None = Field(None, max_length=317, description="Key of the taint; empty for every key.")
    operator: str | None = Field(None, pattern="^(Exists|Equal)$", max_length=6, description="Exists or Equal.")
    value: str | None = Field(None, max_length=63, description="Value of the taint (Equal).")
    effect: str | None = Field(
        None,
        pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$",
        max_length=16,
        description="NoSchedule, PreferNoSchedule or NoExecute; empty for every effect.",
    )
    toleration_seconds: int | None = Field(
        None, ge=0, le=10_000_000, description="How long a NoExecute taint is tolerated, in seconds."
    )


class NodeOperator(StrEnum):
    """How a label or a field of a node is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GT = "Gt"
    LT = "Lt"


class LabelOperator(StrEnum):
    """How a label of a pod or a namespace is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class NodeRequirement(Model):
    """A condition on a label or a field of a node."""

    key: LabelKey = Field(description="The label, or for matchFields the field: metadata.name.")
    operator: NodeOperator = Field(description="How its value is compared.")
    values: list[NodeValue] | None = Field(
        None, max_length=64, description="What to compare with: several for In and NotIn, one for Gt and Lt."
    )


class NodeTerm(Model):
    """Conditions on a node that must all hold."""

    match_expressions: list[NodeRequirement] | None = Field(None, max_length=8, description="On the node's labels.")
    match_fields: list[NodeRequirement] | None = Field(None, max_length=8, description="On the node's fields.")


class NodeTerms(Model):
    """Alternatives, one of which must hold."""

    node_selector_terms: list[NodeTerm] = Field(min_length=1, max_length=8, description="The alternatives.")


class PreferredNodeTerm(Model):
    """Conditions on a node that the scheduler prefers to hold."""

    weight: int = Field(ge=1, le=100, description="How much this counts beside the others.")
    preference: NodeTerm = Field(description="The conditions.")


class NodeAffinity(Model):
    """The nodes that pods need or prefer."""

    required_during_scheduling_ignored_during_execution: NodeTerms | None = Field(
        None, description="Conditions that a node must meet."
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredNodeTerm] | None = Field(
        None, max_length=8, description="Conditions that a node should meet."
    )


class LabelRequirement(Model):
    """A condition on a label."""

    key: LabelKey = Field(description="The label.")
    operator: LabelOperator = Field(description="How its value is compared.")
    values: list[LabelValue] | None = Field(None, max_length=64, description="What to compare with, for In and NotIn.")


class LabelSelector(Model):
    """Conditions on labels that must all hold; without any, everything is selected."""

    match_labels: SelectedLabels | None = Field(None, description="Labels and the values that they must have.")
    match_expressions: list[LabelRequirement] | None = Field(None, max_length=8, description="Other conditions.")


class PodTerm(Model):
    """Pods to be near to, or far from."""

    topology_key: LabelKey = Field(description="Label of nodes; nodes with the same value of it are near each other.")
    label_selector: LabelSelector | None = Field(
        None, description="Which pods. All pods of a job have the label trainwright.dev/job-name with its name."
    )
    namespaces: list[Namespace] | None = Field(
        None, max_length=32, description="Namespaces of these pods; the job's own by default."
    )
    namespace_selector: LabelSelector | None = Field(None, description="Namespaces of these pods, by their labels.")
    match_label_keys: list[LabelKey] | None = Field(
        None, max_length=8, description="Labels in which these pods must equal the worker."
    )
    mismatch_label_keys: list[LabelKey] | None = Field(
        None, max_length=8, description="Labels in which these pods must differ from the worker."
    )


class PreferredPodTerm(Model):
    """Pods that the scheduler prefers to place the workers near to, or far from."""

    weight: int = Field(ge=1, le=100, description="How much this counts beside the others.")
    pod_affinity_term: PodTerm = Field(description="The pods.")


class PodAffinity(Model):
    """Pods to run near; for podAntiAffinity, pods to run away from."""

    required_during_scheduling_ignored_during_execution: list[PodTerm] | None = Field(
        None, max_length=8, description="Terms that must hold."
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredPodTerm] | None = Field(
        None, max_length=8, description="Terms that should hold."
    )


class Affinity(Model):
    """Where pods may and should run, as in any pod."""

    node_affinity: NodeAffinity | None = Field(None, description="By the nodes' labels.")
    pod_affinity: PodAffinity | None = Field(None, description="Near other pods.")
    pod_anti_affinity: PodAffinity | None = Field(None, description="Away from other pods.")


class Unsatisfiable(StrEnum):
    """What happens to a pod that cannot be placed as evenly as demanded."""

    DO_NOT_SCHEDULE = "DoNotSchedule"
    SCHEDULE_ANYWAY = "ScheduleAnyway"


class NodeInclusion(StrEnum):
    """Whether nodes that a pod cannot use are left out of the calculation."""

    HONOR = "Honor"
    IGNORE = "Ignore"


class TopologySpreadConstraint(Model):
    """How evenly pods are spread, as in any pod."""

    max_skew: int = Field(ge=1, le=10_000, description="By how many pods two domains may differ.")
    topology_key: LabelKey = Field(description="Label of nodes; each value of it is a domain.")
    when_unsatisfiable: Unsatisfiable = Field(description="What happens if the pods cannot be spread that evenly.")
    label_selector: LabelSelector | None = Field(
        None, description="Which pods count. All pods of a job have the label trainwright.dev/job-name with its name."
    )
    min_domains: int | None = Field(None, ge=1, le=10_000, description="Fewest domains to spread over.")
    node_affinity_policy: NodeInclusion | None = Field(
        None, description="Whether nodes that the worker's selector or affinity excludes are left out (Honor)."
    )
    node_taints_policy: NodeInclusion | None = Field(
        None, description="Whether nodes with taints that the worker does not tolerate are left out (Honor)."
    )
    match_label_keys: list[LabelKey] | None = Field(
        None, max_length=8, description="Labels in which the pods that count must equal the worker."
    )
