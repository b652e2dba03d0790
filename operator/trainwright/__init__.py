"""Trainwright: train PyTorch models on Kubernetes. Everything that runs outside a training pod lives here."""

__version__ = "0.1.0"
