import pytest
import torch

from trainwright.api.job import read_spec
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build
from trainwright_worker.training.agenda import make_agenda

RELU = {"activation": "relu"}


def spec_of(model, **changes):
    raw = {"model": model, "dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}, **changes}
    return read_spec(raw)


@pytest.mark.parametrize(
    ("model", "shape", "weights"),
    [
        ({"name": "linear"}, (4,), 4 * 10 + 10),
        ({"name": "mlp", "args": {"hidden": [5]}}, (4,), 4 * 5 + 5 + 5 * 10 + 10),
        ({"name": "lenet"}, (3, 32, 32), 62_006),
        ({"name": "cnn"}, (1, 28, 28), 320 + 18_496 + 3136 * 64 + 64 + 650),
        (
            {
                "layers": [
                    {"conv2d": {"channels": 2, "kernelSize": 3, "stride": 2}},
                    {"flatten": {}},
                    {"dense": {"units": 10}},
                ]
            },
            (1, 9, 9),
            2 * 9 + 2 + 32 * 10 + 10,
        ),
    ],
)
def test_models_have_the_expected_weights_and_run(model, shape, weights):
    built = build(spec_of(model), Facts(shape, 10))
    assert sum(parameter.numel() for parameter in built.parameters()) == weights
    assert built(torch.rand(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("layers", "shape", "words"),
    [
        (
            [{"conv2d": {"channels": 64, "kernelSize": 3}}, {"dense": {"units": 10, "inputs": 3136}}],
            (1, 7, 7),
            r"spec.model.layers\[1\].dense.inputs: 3136, but the layers before it produce 1600",
        ),
        (
            [{"maxPool2d": {}}, {"conv2d": {"channels": 4, "kernelSize": 5}}, {"dense": {"units": 10}}],
            (1, 8, 8),
            r"spec.model.layers\[1\].conv2d: a 5x5 kernel with padding 0 does not fit an image of 1x4x4",
        ),
        (
            [{"maxPool2d": {"kernelSize": 9}}, {"dense": {"units": 10}}],
            (1, 8, 8),
            r"spec.model.layers\[0\].maxPool2d: a 9x9 window does not fit an image of 1x8x8",
        ),
        (
            [{"dense": {"units": 4, **RELU}}, {"conv2d": {"channels": 4, "kernelSize": 1}}, {"dense": {"units": 10}}],
            (1, 8, 8),
            r"spec.model.layers\[1\].conv2d: needs images of channels x height x width, but gets 4 numbers",
        ),
        ([{"dense": {"units": 2}}], (4,), r"spec.model.layers\[0\]: the last layer has 2 outputs, but the data has 10"),
    ],
)
def test_layers_that_do_not_fit_are_named(layers, shape, words):
    with pytest.raises(UserError, match=words):
        build(spec_of({"layers": layers}), Facts(shape, 10))


def test_added_dropout_does_not_shift_the_indices_of_the_manifest():
    layers = [{"dense": {"units": 4, **RELU}}, {"dense": {"units": 4, **RELU}}, {"dense": {"units": 10, "inputs": 5}}]
    with pytest.raises(UserError, match=r"spec.model.layers\[2\].dense.inputs: 5, but .* produce 4"):
        build(spec_of({"layers": layers}, regularization={"dropout": 0.5}), Facts((3,), 10))


def test_a_named_model_on_too_small_an_image_is_a_user_error():
    with pytest.raises(UserError, match=r"spec.model.name: lenet: a 5x5 kernel .* does not fit an image of 6x2x2"):
        build(spec_of({"name": "lenet"}), Facts((1, 8, 8), 10))


def agenda_of(steps_per_epoch=10, **changes):
    training = changes.pop("training", {"epochs": 3})
    return make_agenda(spec_of({"name": "mlp"}, training=training, **changes), steps_per_epoch)


def pauses(agenda):
    agenda.interval = 1000
    step, found = 0, []
    while step < agenda.total_steps:
        agenda.plan_next(step)
        step = agenda.next
        found.append(step)
    return found


def test_agenda_pauses_at_epochs_evaluations_checkpoints_and_the_end():
    assert pauses(agenda_of()) == [10, 20, 30]
    agenda = agenda_of(training={"steps": 25}, evaluation={"everySteps": 12}, checkpoint={"everySteps": 7})
    assert pauses(agenda) == [7, 10, 12, 14, 20, 21, 24, 25]
    assert [step for step in range(1, 26) if agenda.evaluates(step)] == [12, 24, 25]
    assert [step for step in range(1, 26) if agenda.saves(step)] == [7, 14, 21, 25]
    assert agenda.save_seconds == 0
    assert agenda_of().save_seconds == 60


def test_deterministic_runs_that_may_roll_back_meet_at_the_same_steps_whenever_they_begin():
    def meetings(begin):
        agenda = agenda_of(
            steps_per_epoch=1000, training={"steps": 40, "deterministic": True}, health={"nonFinite": "rollback"}
        )
        agenda.interval = begin + 1
        step, found = begin, []
        while step < 40:
            agenda.plan_next(step)
            step = agenda.next
            found.append(step)
        return found

    assert meetings(0) == [8, 16, 24, 32, 40]
    assert meetings(11) == [16, 24, 32, 40]


def test_meetings_approach_one_per_second_by_doubling():
    agenda = agenda_of(training={"steps": 10_000})
    intervals = []
    for _ in range(9):
        agenda.interval = agenda.suggest_interval(0.01)
        intervals.append(agenda.interval)
    assert intervals == [2, 4, 8, 16, 32, 64, 100, 100, 100]
    assert agenda.suggest_interval(30) == 1
