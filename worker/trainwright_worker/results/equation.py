"""The equation y = w x + b of a linear model, in the units of its data."""

from typing import Any

import torch
from torch import nn

from trainwright_worker.data.dataset import Dataset
from trainwright_worker.data.samples import Samples

_SAMPLES = 64
"""Random samples on which a model is compared with its only layer."""


def equation(model: nn.Module, dataset: Dataset) -> dict[str, Any] | None:
    """Return the coefficients by feature and the intercept of a linear regression, in the units of the data.

    Features without names are called `x1`, `x2` and so on. The model was trained on scaled values; the result is
    unscaled.

    Args:
        model: The trained model, on the CPU.
        dataset: Its data.

    Returns:
        `{"coefficients": {"area": 3.2}, "intercept": 40.1}`; None unless the model is a single linear layer with one
        output and the data is a table of numbers with a numeric target.
    """
    layers = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    train = dataset.splits.train
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear) or layers[0].out_features != 1:
        return None
    if dataset.classes is not None or not isinstance(train, Samples) or train.inputs.dim() != 2:  # noqa: PLR2004
        return None
    layer, scale = layers[0], dataset.normalization
    # An activation has no weights, but the model is not linear with it.
    samples = torch.randn(_SAMPLES, layer.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not torch.allclose(model.eval()(samples), layer(samples), atol=1e-5):
            return None
    weights = layer.weight.detach()[0].double() * scale.target_deviation[0]
    intercept = scale.target_mean[0]
    if layer.bias is not None:
        intercept += float(layer.bias.detach()[0].double() * scale.target_deviation[0])
    if scale.mean:
        weights = weights / torch.tensor(scale.deviation, dtype=torch.float64)
        intercept -= float(weights @ torch.tensor(scale.mean, dtype=torch.float64))
    names = train.features or [f"x{number}" for number in range(1, len(weights) + 1)]
    return {"coefficients": dict(zip(names, weights.tolist(), strict=True)), "intercept": intercept}
