"""Explanations of models whose reasons are known."""

import io
import json

import pytest
import torch
from PIL import Image
from torch import nn
from trained import BAD, GOOD, train, write_reviews

from trainwright.api.spec import ExplanationSpec
from trainwright.api.spec.outcome import ExplanationMethod
from trainwright_worker.batch import Batch
from trainwright_worker.results.attribution import Subject, attribute
from trainwright_worker.results.explain import explain
from trainwright_worker.results.folder import ResultsFolder
from trainwright_worker.tasks.table import make_task

pytestmark = pytest.mark.local

ALL = '{"methods": ["saliency", "lime", "shap"], "samples": 2}'
WEIGHTS = torch.tensor([3.0, -2.0, 1.0, 0.5, 0.0, -0.25])


def linear_subject(inputs, background):
    model = nn.Linear(len(WEIGHTS), 2)
    with torch.no_grad():
        model.weight.copy_(torch.stack([torch.zeros_like(WEIGHTS), WEIGHTS]))
    return Subject(model.eval(), Batch.of(inputs[None], torch.zeros(1)), 1, background)


def test_saliency_of_a_linear_model_is_the_size_of_its_weights():
    subject = linear_subject(torch.randn(6), torch.zeros(6))
    assert torch.equal(attribute(ExplanationMethod.SALIENCY, subject, 0), WEIGHTS.abs())


@pytest.mark.parametrize("method", [ExplanationMethod.LIME, ExplanationMethod.SHAP])
def test_lime_and_shap_find_what_each_feature_of_a_linear_model_contributes(method):
    inputs, background = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, -1.0]), torch.full((6,), 0.5)
    found = attribute(method, linear_subject(inputs, background), 0)
    expected = WEIGHTS * (inputs - background)
    assert found.argsort().tolist() == expected.argsort().tolist()
    assert torch.allclose(found, expected, atol=0.01)


def test_shap_adds_up_to_the_difference_from_the_background():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    inputs, background = torch.randn(1, 8), torch.zeros(8)
    found = attribute(ExplanationMethod.SHAP, Subject(model, Batch.of(inputs, torch.zeros(1)), 2, background), 0)
    with torch.no_grad():
        difference = model(inputs)[0, 2] - model(background[None])[0, 2]
    assert float(found.sum()) == pytest.approx(float(difference), abs=1e-3)


def test_a_single_feature_explains_everything():
    model = nn.Linear(1, 1)
    subject = Subject(model, Batch.of(torch.tensor([[2.0]]), torch.zeros(1, 1)), 0, torch.zeros(1))
    assert float(attribute(ExplanationMethod.SHAP, subject, 0)) == pytest.approx(2 * model.weight.item())


def test_only_the_part_of_an_image_that_decides_is_blamed():
    class Corner(nn.Module):
        def forward(self, inputs):
            return torch.stack([inputs[:, 0, :4, :4].sum((1, 2)), inputs.sum((1, 2, 3)) * 0], 1)

    subject = Subject(Corner(), Batch.of(torch.rand(1, 1, 16, 16) + 0.5, torch.zeros(1)), 0, torch.zeros(1, 16, 16))
    assert attribute(ExplanationMethod.SALIENCY, subject, 0).nonzero().max() == 3
    for method in (ExplanationMethod.LIME, ExplanationMethod.SHAP):
        squares = attribute(method, subject, 0)
        assert squares.shape == (8, 8), "squares of two by two pixels"
        assert squares[:2, :2].min() > 100 * squares[2:].abs().max()


def test_the_words_that_decide_a_review_are_found(tmp_path):
    write_reviews(tmp_path / "reviews.jsonl")
    job = {"model": {"name": "gru", "args": {"hidden": 16, "bidirectional": True}}}
    spec, data, model = train(job | {"dataset": {"labeledText": {"path": "reviews.jsonl"}}}, 80, str(tmp_path))
    where = explain(
        ExplanationSpec.model_validate_json(ALL), model, data, make_task(spec), ResultsFolder(str(tmp_path))
    )
    assert where == f"{tmp_path}/results/explanations"
    files = sorted((tmp_path / "results/explanations").glob("*.json"))
    assert [file.name for file in files] == ["test-000000.json", "test-000019.json"]
    for file in files:
        found = json.loads(file.read_text())
        assert found["prediction"] == found["target"] == found["explained"]
        telling = GOOD if found["prediction"] == "positive" else BAD
        assert max(found["attributions"]["saliency"]) > 0
        for method in ("lime", "shap"):
            ranked = sorted(zip(found["attributions"][method], found["parts"], strict=True), reverse=True)
            assert ranked[0][1] in telling, (method, ranked)
        picture = Image.open(io.BytesIO(file.with_suffix(".png").read_bytes()))
        assert picture.width == 1350
        assert len(picture.getcolors(1_000_000)) > 50


def test_images_and_rows_become_pictures(tmp_path):
    for name, size in (("digits", 1620), ("diabetes", None)):
        task = "regression" if name == "diabetes" else "classification"
        job = {"model": {"name": "mlp"}, "dataset": {"builtin": {"name": name}}, "task": task}
        spec, data, model = train(job, 20)
        explain(
            ExplanationSpec.model_validate_json(ALL),
            model,
            data,
            make_task(spec),
            ResultsFolder(str(tmp_path / name)),
        )
        pictures = sorted((tmp_path / name / "results/explanations").glob("*.png"))
        assert len(pictures) == 2
        assert size is None or Image.open(pictures[0]).width == size
    found = json.loads(next((tmp_path / "diabetes/results/explanations").glob("*.json")).read_text())
    assert len(found["parts"]) == 10
    assert found["parts"][0].startswith("age = ")
