"""Generates data from the seed, which is the same on every worker and in every run."""

import torch

from trainwright.api.spec.sources import SyntheticData, SyntheticKind
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.table import Table

LINE_SLOPE = 2.0
LINE_INTERCEPT = 1.0


def generate(data: SyntheticData, seed: int) -> Table:
    """Return generated samples.

    A line has intercept 1 and slope 2 in its first feature (then 1, 2/3, …), over features uniform in [-1, 1]. A
    cluster is normally distributed with standard deviation `noise` around a centre from the standard normal
    distribution.

    Args:
        data: Kind and size of the data.
        seed: Seed of all random numbers.
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
