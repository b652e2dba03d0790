"""The tables of tasks and sources, which rules and documentation follow from."""

import pytest

from trainwright.api.figures import Evaluation
from trainwright.api.spec import DatasetSpec
from trainwright.api.spec.evaluation import LOWER_IS_BETTER, MetricName
from trainwright.api.spec.source import SOURCE_FIELDS, SOURCES, Modality, Target, find_source
from trainwright.api.spec.task import TASKS, TaskName, order_metrics
from trainwright.cli.local.words import metric_texts


def test_every_task_has_a_row_and_every_target_a_task_and_a_source():
    assert set(TASKS) == set(TaskName)
    assert {traits.target for traits in TASKS.values()} == set(Target)
    assert {target for source in SOURCES for target in source.targets} == set(Target)
    assert {source.modality for source in SOURCES} == set(Modality)


@pytest.mark.parametrize("task", TaskName)
def test_what_is_optional_can_be_asked_for_and_the_main_metric_is_always_there(task):
    traits = TASKS[task]
    assert traits.optional < set(traits.metrics)
    assert traits.main_metric not in traits.optional
    assert MetricName.LOSS not in traits.metrics


def test_every_source_is_a_field_of_the_dataset():
    assert set(SOURCE_FIELDS) <= set(DatasetSpec.model_fields)


@pytest.mark.parametrize(
    ("raw", "modality", "targets"),
    [
        ({"builtin": {"name": "digits"}}, Modality.IMAGES, {Target.CLASS}),
        ({"builtin": {"name": "diabetes"}}, Modality.ROWS, {Target.NUMBERS}),
        ({"builtin": {"name": "iris"}}, Modality.ROWS, {Target.CLASS}),
        ({"synthetic": {"kind": "line"}}, Modality.ROWS, {Target.NUMBERS}),
        ({"text": {"path": "a.txt"}}, Modality.TEXTS, {Target.TOKENS}),
        ({"huggingface": {"path": "a", "text": "t", "label": "l"}}, Modality.TEXTS, {Target.CLASS, Target.TOKENS}),
        ({"huggingface": {"path": "a", "image": "i", "label": "l"}}, Modality.IMAGES, {Target.CLASS, Target.NUMBERS}),
        (
            {"huggingface": {"path": "a", "features": ["f"], "label": "l"}},
            Modality.ROWS,
            {Target.CLASS, Target.NUMBERS},
        ),
        ({"labeledSequences": {"path": "a.jsonl"}}, Modality.FRAMES, {Target.CHARACTERS}),
    ],
)
def test_a_dataset_knows_its_source(raw, modality, targets):
    source = find_source(DatasetSpec.model_validate(raw, by_alias=True, strict=False))
    assert (source.modality, source.targets) == (modality, targets)


def test_the_main_metric_is_shown_first_and_the_loss_last():
    assert order_metrics(["loss", "mae", "r2"]) == ["r2", "mae", "loss"]
    assert order_metrics(["loss", "f1", "accuracy", "of-a-later-version"])[:2] == ["accuracy", "f1"]
    assert set(TASKS[TaskName.REGRESSION].metrics) & LOWER_IS_BETTER == {MetricName.MAE, MetricName.RMSE}


def test_a_metric_without_a_value_is_shown_as_undefined():
    evaluation = Evaluation(split="test", step=3, metrics={"loss": 0.5, "accuracy": 1.0}, undefined=["auroc"])
    assert metric_texts(evaluation) == ["accuracy 1.0000", "loss 0.5000", "auroc undefined"]
