"""A network and a loss of one's own, for manifests/examples/own-network.yaml."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Residual(nn.Module):
    """A small residual network for images."""

    def __init__(self, width: int, *, input_shape: tuple[int, ...], outputs: int) -> None:
        """Trainwright gives `input_shape` (channels, height, width) and `outputs`; `width` comes from spec.model.args."""
        super().__init__()
        self.stem = nn.Conv2d(input_shape[0], width, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, kernel_size=3, padding=1))
            for _ in range(2)
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [batch, channels, height, width] to logits [batch, outputs]."""
        features = self.stem(images)
        for block in self.blocks:
            features = features + block(features)
        return self.head(features.mean(dim=(2, 3)))


def focal(outputs: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the focal loss of each sample: logits [batch, classes], classes [batch] -> [batch]."""
    log_likelihood = -cross_entropy(outputs, target, reduction="none")
    return -((1 - torch.exp(log_likelihood)) ** gamma) * log_likelihood
