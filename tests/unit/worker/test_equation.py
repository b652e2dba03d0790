"""A linear model in the units of its data."""

import pytest
import torch
from torch import nn

from trainwright_worker.data.dataset import Dataset
from trainwright_worker.data.measured import Measured
from trainwright_worker.data.normalization import Normalization
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.splits import Splits
from trainwright_worker.results.equation import equation

SCALED = Normalization((10.0, 4.0), (2.0, 0.5), (100.0,), (20.0,))


def dataset(names, scale, classes=None):
    train = Samples(torch.zeros(3, 2), torch.zeros(3, 1), names)
    return Dataset(Splits(train, None, None), Measured(classes, scale))


def layer():
    linear = nn.Linear(2, 1)
    linear.weight.data = torch.tensor([[0.5, -0.25]])
    linear.bias.data = torch.tensor([0.1])
    return linear


def test_the_equation_predicts_what_the_scaled_model_does():
    found = equation(nn.Sequential(nn.Flatten(), layer()), dataset(("area", "age"), SCALED))
    row = torch.tensor([[13.0, 2.0]], dtype=torch.float64)
    scaled = SCALED.apply_to_inputs(row)
    expected = float(SCALED.targets_in_units(layer()(scaled).detach()))
    area, age = found["coefficients"]["area"], found["coefficients"]["age"]
    assert 13 * area + 2 * age + found["intercept"] == pytest.approx(expected)


def test_features_without_names_are_numbered():
    found = equation(layer(), dataset(None, Normalization()))
    assert found == {"coefficients": {"x1": 0.5, "x2": -0.25}, "intercept": pytest.approx(0.1)}


@pytest.mark.parametrize("classes", [None, ("a", "b")])
def test_other_models_have_no_equation(classes):
    for other in (nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1)), nn.Sequential(layer(), nn.ReLU())):
        model = layer() if classes else other
        assert equation(model, dataset(None, Normalization(), classes)) is None
