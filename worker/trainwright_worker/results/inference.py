"""Converts a model to ONNX and runs it with onnxruntime."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainwright_worker.batch import Batch
from trainwright_worker.results.recurrence import with_operators

OUTPUTS = "outputs"


class _Inference(nn.Module):
    """The model with named inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Any:
        return self.model(inputs) if mask is None else self.model(inputs, mask)


def trace(model: nn.Module, example: Batch, *, optimize: bool = True) -> Any:
    """Return the model as an ONNX program with dynamic batch size, and dynamic length if the inputs are sequences.

    Args:
        model: The model in evaluation mode, on the CPU; or on the meta device, to check whether it can be exported.
        example: At least two samples on the same device; only their shapes matter.
        optimize: Whether to fold constants, which needs weights.

    Raises:
        Exception: torch cannot export the model. Torch raises many kinds of exceptions.
    """
    arguments = tuple(example.inputs.values())
    sequence = example.mask is not None or not example.input.is_floating_point()
    free = dict.fromkeys(range(1 + sequence), torch.export.Dim.DYNAMIC)
    with _silence():
        return torch.onnx.export(
            _Inference(with_operators(model)),
            arguments,
            dynamo=True,
            dynamic_shapes=(free,) * len(arguments),
            input_names=list(example.inputs),
            output_names=[OUTPUTS],
            optimize=optimize,
            verbose=False,
        )


class Session:
    """An ONNX file, run by onnxruntime on the CPU."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load the file.

        Args:
            path: The file.
            threads: Number of threads for computation.
        """
        import onnxruntime  # noqa: PLC0415 - only exports need it

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # Errors only.
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, batch: Batch) -> Tensor:
        """Return the outputs for a batch on the CPU."""
        return torch.from_numpy(self._session.run([OUTPUTS], feed(batch))[0])


def feed(batch: Batch) -> dict[str, Any]:
    """Return the inputs of a batch as onnxruntime expects them."""
    return {name: value.numpy() for name, value in batch.inputs.items()}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's warnings and progress out of the job's log. Errors are raised as exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
