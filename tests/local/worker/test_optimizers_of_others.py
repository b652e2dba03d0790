"""LAMB and LARS against timm's, which takes seconds to import."""

import pytest
import torch
from torch import nn

from trainwright_worker.optim.layerwise import Lamb, Lars

pytestmark = pytest.mark.local


def step(model, optimizer, seed):
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
    loss = model(inputs).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_steps_are_those_of_timm(name):
    import timm.optim  # noqa: PLC0415

    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))

    ours, theirs = model(), model()
    if name == "lamb":
        mine = Lamb(ours.parameters(), lr=0.02, weight_decay=0.01)
        other = timm.optim.Lamb(theirs.parameters(), lr=0.02, weight_decay=0.01, max_grad_norm=None)
    else:
        settings = {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
        mine, other = Lars(ours.parameters(), **settings), timm.optim.Lars(theirs.parameters(), eps=0, **settings)
    losses = [(step(ours, mine, seed), step(theirs, other, seed)) for seed in range(20)]
    assert losses[-1][0] < losses[0][0]
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)
