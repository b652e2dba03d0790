"""Data generated from the seed: the same on every worker and in every run, with noise that no model can remove."""

import torch

from trainwright.api.spec.sources import SyntheticData, SyntheticKind
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.table import Table

LINE_SLOPE = 2.0
LINE_INTERCEPT = 1.0


def generate(data: SyntheticData, seed: int) -> Table:
    """Return generated samples.

    A line has slope 2 in its first feature (then 1, 2/3, …) and intercept 1, over features uniform in [-1, 1]. A
    cluster is a Gaussian cloud of standard deviation `noise` around a centre drawn from the unit normal.

    Args:
        data: What to generate.
        seed: Seed of every draw.
    """
    generator = torch.Generator().manual_seed(seed)
    if data.kind == SyntheticKind.LINE:
        inputs = torch.rand(data.samples, data.features, generator=generator) * 2 - 1
        slopes = LINE_SLOPE / torch.arange(1, data.features + 1, dtype=torch.float32)
        noise = data.noise * torch.randn(data.samples, 1, generator=generator)
        return Table(Samples(inputs, (inputs * slopes).sum(1, keepdim=True) + LINE_INTERCEPT + noise), classes=None)
    centres = torch.randn(data.classes, data.features, generator=generator)
    labels = torch.randint(data.classes, (data.samples,), generator=generator)
    noise = data.noise * torch.randn(data.samples, data.features, generator=generator)
    return Table(Samples(centres[labels] + noise, labels), tuple(str(label) for label in range(data.classes)))
