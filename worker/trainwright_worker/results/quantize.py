"""Quantizes an ONNX model to int8.

Models with convolutions are quantized statically: the range of every activation is measured on training samples, and
weights and activations are int8. All others are quantized dynamically: weights are int8, and the range of activations
is measured at run time.
"""

import logging
from pathlib import Path
from typing import Any, Final

from trainwright_worker.batch import Batch
from trainwright_worker.data.table import Split
from trainwright_worker.results.inference import feed
from trainwright_worker.results.quality import batches

CALIBRATED: Final = 256
"""Number of training samples for calibration."""


def quantize(source: Path, target: Path, train: Split, *, large: bool) -> None:
    """Write the int8 version of an ONNX file.

    Args:
        source: The ONNX file.
        target: The file to write.
        train: Samples for calibration.
        large: Whether to store weights in separate files, which is required above 2 GB.
    """
    import onnx  # noqa: PLC0415 - only exports need these
    from onnxruntime import quantization  # noqa: PLC0415
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    logging.getLogger().setLevel(
        logging.ERROR
    )  # onnxruntime logs a recommendation to pre-process the model, which happens here.
    kinds = {node.op_type for node in onnx.load(source, load_external_data=False).graph.node}
    prepared = source.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True, save_as_external_data=large)
    if "Conv" in kinds:
        quantization.quantize_static(
            prepared,
            target,
            _Calibration(train),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            use_external_data_format=large,
        )
    else:
        quantization.quantize_dynamic(
            prepared, target, weight_type=quantization.QuantType.QInt8, use_external_data_format=large
        )
    for leftover in source.parent.glob("prepared.onnx*"):
        leftover.unlink()


class _Calibration:
    """Training samples in the interface that onnxruntime expects: one batch per call, then None."""

    def __init__(self, train: Split) -> None:
        self._batches = batches(train, CALIBRATED)

    def get_next(self) -> dict[str, Any] | None:
        batch: Batch | None = next(self._batches, None)
        return None if batch is None else feed(batch)
