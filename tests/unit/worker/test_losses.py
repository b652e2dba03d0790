import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trainwright.api.job import read_spec
from trainwright.api.spec import RegularizationSpec
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.errors import WorkerError
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build
from trainwright_worker.models.lora import merge_lora
from trainwright_worker.preflight.measure import Gauge
from trainwright_worker.results.weights import savable
from trainwright_worker.tasks.table import make_task
from trainwright_worker.tasks.transcription import frame_lengths
from trainwright_worker.training.penalty import make_penalty
from trainwright_worker.training.teacher import compare, load_teacher, read_model

CLASSES = {"dataset": {"builtin": {"name": "iris"}}}
NUMBERS = {"dataset": {"builtin": {"name": "diabetes"}}, "task": "regression"}
TEXT = {"dataset": {"text": {"path": "a.txt"}}, "task": "language-modeling"}
FRAMES = {"dataset": {"labeledSequences": {"path": "a.jsonl"}}, "task": "transcription"}


def task_of(fields, **loss):
    raw = {"model": {"name": "mlp"}, "training": {"epochs": 1}, **fields, **({"loss": loss} if loss else {})}
    return make_task(read_spec(raw))


def loss_of(fields, outputs=2, **loss):
    return task_of(fields, **loss).loss(Facts((1,), outputs))


@pytest.mark.parametrize(
    ("fields", "loss", "outputs", "targets", "expected"),
    [
        (NUMBERS, {"name": "mse"}, [[1.0], [3.0]], [[0.0], [0.0]], (1 + 9) / 2),
        (NUMBERS, {"name": "l1"}, [[1.0], [-3.0]], [[0.0], [0.0]], (1 + 3) / 2),
        (NUMBERS, {"name": "huber", "delta": 2.0}, [[1.0], [-3.0]], [[0.0], [0.0]], (0.5 + 2 * (3 - 1)) / 2),
        (CLASSES, {}, [[0.0, 0.0, 0.0, 0.0]], [3], math.log(4)),
        (CLASSES, {}, [[2.0, 0.0]], [0], math.log(1 + math.exp(-2))),
        # (1 - s) x the loss of the right class + s x the mean over both classes.
        (
            CLASSES,
            {"name": "cross-entropy", "labelSmoothing": 0.2},
            [[2.0, 0.0]],
            [0],
            0.9 * math.log(1 + math.exp(-2)) + 0.1 * math.log(1 + math.exp(2)),
        ),
        (CLASSES, {"name": "bce"}, [[2.0, -1.0]], [0], (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2),
    ],
)
def test_losses_by_hand(fields, loss, outputs, targets, expected):
    batch, outputs = Batch.of(torch.zeros(len(outputs), 1), torch.tensor(targets)), torch.tensor(outputs)
    made = loss_of(fields, outputs.shape[1], **loss)
    assert float(made.mean(outputs, batch)) == pytest.approx(expected, rel=1e-6)
    assert float(made.total(outputs, batch)) == pytest.approx(expected * len(batch), rel=1e-6)


def test_evaluations_leave_label_smoothing_out():
    outputs, batch = torch.tensor([[2.0, 0.0]]), Batch.of(torch.zeros(1, 1), torch.tensor([0]))
    task = task_of(CLASSES, name="cross-entropy", labelSmoothing=0.2)
    loss = task.evaluation_loss(Facts((1,), 2))
    assert float(loss.mean(outputs, batch)) == pytest.approx(math.log(1 + math.exp(-2)))


@pytest.mark.parametrize(("fields", "shape"), [(CLASSES, (1, 2)), (TEXT, (1, 3, 2))])
def test_outputs_that_stand_for_nothing_get_no_share_of_smoothing(fields, shape):
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    padded = torch.cat((outputs, torch.full((*shape[:-1], 6), 3.0)), -1)
    batch = Batch.of(torch.zeros(shape[:-1]), torch.zeros(shape[:-1], dtype=torch.int64))
    task = task_of(fields, name="cross-entropy", labelSmoothing=0.2)
    for make in (task.loss, task.evaluation_loss):
        loss = make(Facts((1,), 2))
        assert float(loss.mean(padded, batch)) == pytest.approx(float(loss.mean(outputs, batch)))


def test_tokens_that_are_ignored_count_for_nothing():
    outputs = torch.zeros(2, 3, 4)
    outputs[0, 0, 1] = 5.0
    targets = torch.tensor([[1, 2, IGNORED], [IGNORED, IGNORED, IGNORED]])
    batch = Batch.of(torch.zeros(2, 3, dtype=torch.int64), targets)
    right = math.log(1 + 3 * math.exp(-5))
    loss, nothing = loss_of(TEXT, 4), batch.slice(1, 2)
    assert float(loss.mean(outputs, batch)) == pytest.approx((right + math.log(4)) / 2)
    assert float(loss.mean(outputs[1:], nothing)) == 0
    assert (int(loss.count(batch)), int(loss.count(nothing))) == (2, 0)


@pytest.mark.parametrize("fields", [CLASSES, NUMBERS, FRAMES])
def test_other_losses_are_sums_over_samples(fields):
    assert loss_of(fields).count(Batch.of(torch.zeros(3, 7, 2), torch.zeros(3, 4))) == 3


def test_ctc_sums_over_all_ways_to_spell_the_target():
    # Two frames spell the single character 1 as 11, 01 or 10; each frame says 1 with probability p.
    p = 0.7
    logits = torch.log(torch.tensor([[1 - p, p]])).repeat(1, 2, 1)
    batch = Batch.of(torch.zeros(1, 2, 1), torch.tensor([[1, IGNORED]]))
    ways = p * p + 2 * p * (1 - p)
    assert float(loss_of(FRAMES).mean(logits, batch)) == pytest.approx(-math.log(ways), rel=1e-5)


def test_ctc_knows_padded_frames_and_targets_that_do_not_fit():
    logits = torch.randn(2, 4, 3)
    targets = torch.tensor([[1, IGNORED, IGNORED], [2, 1, 2]])
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    batch = Batch.of(torch.zeros(2, 4, 1), targets, mask)
    alone = Batch.of(torch.zeros(1, 2, 1), targets[:1, :1])
    loss = loss_of(FRAMES).mean
    both, second = loss(logits, batch), loss(logits[1:], Batch.of(torch.zeros(1, 4, 1), targets[1:]))
    assert float(both) == pytest.approx((float(loss(logits[:1, :2], alone)) + float(second)) / 2, rel=1e-5)
    assert float(loss(logits[1:, :2], Batch.of(torch.zeros(1, 2, 1), targets[1:]))) == 0
    assert frame_lengths(logits[:, :2], batch).tolist() == [1, 2]


def test_penalties_spare_biases():
    layer = nn.Linear(2, 1)
    nn.init.constant_(layer.weight, -3)
    penalty = make_penalty(RegularizationSpec(l1=0.5, l2=0.1), layer.parameters())
    assert penalty().item() == pytest.approx(0.5 * 6 + 0.05 * 18)
    assert make_penalty(RegularizationSpec(), layer.parameters()) is None


def test_a_teacher_is_compared_by_probabilities():
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])
    batch = Batch.of(torch.zeros(1, 1), torch.tensor([0]))
    known, learnt = (teacher / 2).softmax(1), (student / 2).softmax(1)
    expected = 4 * float((known * (known / learnt).log()).sum())
    assert float(compare(student, teacher, batch, 2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(compare(teacher, teacher, batch, 2.0)) == pytest.approx(0, abs=1e-6)
    padded = torch.cat([student, torch.tensor([[5.0]])], dim=1)  # As a vocabulary that is padded to a multiple.
    assert float(compare(padded, teacher, batch, 2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(compare(student, torch.cat([teacher, padded[:, 2:]], 1), batch, 2.0)) == pytest.approx(
        expected, rel=1e-5
    )
    tokens = Batch.of(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[0, IGNORED]]))
    two = torch.stack([student[0], torch.tensor([9.0, -9.0])])[None]
    other = torch.stack([teacher[0], torch.tensor([-9.0, 9.0])])[None]
    assert float(compare(two, other, tokens, 2.0)) == pytest.approx(expected, rel=1e-5)


def taught(model, **changes):
    raw = {"model": model, "dataset": {"builtin": {"name": "iris"}}, "training": {"epochs": 1}}
    return read_spec(raw | changes)


def teach(folder, spec, facts):
    """Write the results of a job that has trained nothing yet, and return its model."""
    model = build(spec, facts).eval()
    merge_lora(model)
    folder.mkdir()
    save_file(savable(model), folder / "weights.safetensors")
    (folder / "results.json").write_text(json.dumps({"spec": spec.to_wire()}))
    return model


def learn(root, spec, facts):
    """Return the teacher of a job."""
    return load_teacher(spec, spec.distillation, facts, str(root))


def test_a_teacher_that_was_trained_with_lora_teaches_from_its_results(tmp_path):
    facts = Facts((7,), 3, vocabulary=20)
    small = {"name": "transformer", "args": {"dimension": 8, "heads": 2, "layers": 1}}
    texts = {"labeledText": {"path": "t.jsonl"}}
    adapted = taught({**small, "pretrained": "base.safetensors", "lora": {"rank": 2}}, dataset=texts)
    model = teach(tmp_path / "teacher", adapted, facts)
    loaded = learn(tmp_path, taught(small, dataset=texts, distillation={"weights": "teacher"}), facts)
    tokens = torch.randint(20, (2, 7))
    assert torch.equal(loaded(tokens), model(tokens))


def test_a_teacher_whose_own_beginning_is_not_at_hand_is_blamed_on_the_teacher(tmp_path):
    facts, text = Facts((7,), 20, vocabulary=20), {"text": {"path": "t.txt"}}
    begun = taught({"name": "gpt", "pretrained": "/bases/gpt2"}, task="language-modeling", dataset=text)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "results.json").write_text(json.dumps({"spec": begun.to_wire()}))
    lesson = {"weights": "teacher"}
    spec = taught({"name": "gpt"}, task="language-modeling", dataset=text, distillation=lesson)
    blame = "spec.distillation.weights: the teacher's model cannot be built here: spec.model.pretrained: /bases/gpt2"
    with pytest.raises(WorkerError, match=blame):
        learn(tmp_path, spec, facts)
    teacher = read_model(spec.distillation, str(tmp_path))
    with pytest.raises(WorkerError, match=blame):
        Gauge(spec, facts, cuda=False, root=str(tmp_path), teacher=teacher).weights()


@pytest.mark.parametrize(("own", "students"), [(0.2, 0), (0, 0.2), (0.2, 0.5)])
@pytest.mark.parametrize("named", [True, False])
def test_a_teacher_has_the_dropouts_it_was_trained_with_whatever_its_student_has(tmp_path, own, students, named):
    facts, shape = Facts((4,), 3), {"name": "mlp", "args": {"hidden": [5]}}
    model = teach(tmp_path / "teacher", taught(shape, regularization={"dropout": own}), facts)
    lesson = {"weights": "teacher", **({"model": "mlp", "args": shape["args"]} if named else {})}
    student = taught({"name": "linear"}, regularization={"dropout": students}, distillation=lesson)
    rows = torch.randn(2, 4)
    assert torch.equal(learn(tmp_path, student, facts)(rows), model(rows))
