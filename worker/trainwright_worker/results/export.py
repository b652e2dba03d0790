"""Exports of the trained model to other formats. The metrics of an export are measured on the written file."""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainwright.api.spec import ExportSpec, TrainingJobSpec
from trainwright.api.spec.outcome import ExportFormat
from trainwright.api.status import Export
from trainwright_worker.batch import Batch, run_model
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.data.table import Split
from trainwright_worker.errors import UserError, WorkerError
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build
from trainwright_worker.models.lora import merge_lora
from trainwright_worker.results.folder import ResultsFolder
from trainwright_worker.results.inference import Session, trace
from trainwright_worker.results.quality import batches, measure
from trainwright_worker.results.quantize import quantize
from trainwright_worker.tasks.task import Task

ONNX: Final = "model.onnx"
INT8: Final = "model-int8.onnx"
COMPARED: Final = 64
"""Number of samples on which the outputs are compared with those of the trained model."""
TOLERANCE: Final = 1e-3
"""Largest deviation that is attributed to rounding, relative to the largest output."""
_LARGE: Final = 1_900_000_000
"""Size of the weights in bytes above which they are stored outside the ONNX file, which is limited to 2 GB."""


class MismatchError(WorkerError):
    """The outputs of an exported model differ from those of the trained model."""


def export(
    spec: ExportSpec,
    model: nn.Module,
    dataset: Dataset,
    task: Task,
    folder: ResultsFolder,
    attempt: Callable[[str, Callable[[], Export]], Export | None],
) -> list[Export]:
    """Write the model in the requested formats.

    Args:
        spec: The formats.
        model: The model on the CPU, in evaluation mode.
        dataset: Data for tracing, calibration and measurement.
        task: The task of the model, which determines the metrics.
        folder: The results folder.
        attempt: Runs one export; if it fails, reports the reason and returns None.

    Returns:
        The exports that were made.
    """
    measured = measured_split(dataset)
    with tempfile.TemporaryDirectory(prefix="trainwright-export-") as scratch:
        exporter = _Exporter(model, dataset, measured, task, folder, Path(scratch))
        made = [attempt("spec.export.formats: onnx", exporter.onnx)]
        if made[0] is not None and ExportFormat.INT8 in spec.formats:
            made.append(attempt("spec.export.formats: int8", exporter.int8))
    return [export for export in made if export is not None]


def measured_split(dataset: Dataset) -> Split:
    """Return the split for measurements: the test split, else the validation split, else the training split."""
    splits = dataset.splits
    return next(split for split in (splits.test, splits.validation, splits.train) if split is not None)


def check_export(spec: TrainingJobSpec, dataset: Dataset, facts: Facts, root: str) -> None:
    """Check before training that the model can be exported, by tracing a copy without weights (on the meta device).

    Raises:
        UserError: A package is missing, or torch cannot export such a model.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"spec.export: the image lacks the package {package}", f"add {package} to the image")
    meta = torch.device("meta")
    try:
        with meta:
            skeleton = build(spec, facts, root).eval()
        merge_lora(skeleton)
        trace(skeleton, _example(dataset).to(meta), optimize=False)
    except WorkerError:
        raise
    except Exception as error:
        raise UserError(f"spec.export: this model cannot be exported: {reason(error)}", "remove spec.export") from error


def reason(error: BaseException) -> str:
    """Return why an export failed: the root cause of the exception, without the exporter's advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


class _Exporter:
    """Makes one export at a time; int8 is made from the ONNX file."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        measured: Split,
        task: Task,
        folder: ResultsFolder,
        scratch: Path,
    ) -> None:
        self._model = model
        self._dataset = dataset
        self._measured = measured
        self._task = task
        self._folder = folder
        self._onnx, self._int8 = scratch / ONNX, scratch / INT8
        weights = [*model.parameters(), *model.buffers()]
        self._large = sum(weight.numel() * weight.element_size() for weight in weights) > _LARGE

    def onnx(self) -> Export:
        """Write model.onnx, if its outputs match those of the trained model."""
        program: Any = trace(self._model, _example(self._dataset))
        program.save(str(self._onnx), external_data=self._large)
        difference, scale = self._compare(Session(self._onnx, torch.get_num_threads()))
        if not difference <= TOLERANCE * max(1.0, scale):
            raise MismatchError(f"the outputs differ by up to {difference:.3g} from those of the trained model")
        return self._publish("onnx", self._onnx, {"maxDifference": difference})

    def int8(self) -> Export:
        """Write model-int8.onnx; its metrics show how much accuracy quantization costs."""
        quantize(self._onnx, self._int8, self._dataset.splits.train, large=self._large)
        difference, _ = self._compare(Session(self._int8, torch.get_num_threads()))
        return self._publish("int8", self._int8, {"maxDifference": difference})

    def _compare(self, session: Session) -> tuple[float, float]:
        """Return the largest deviation from the trained model's outputs, and the largest of those outputs."""
        difference = scale = 0.0
        for batch in batches(self._measured, COMPARED, COMPARED // 2 + 1):
            with torch.no_grad():
                expected = run_model(self._model, batch)
            deviation = (_real(session(batch), batch) - _real(expected, batch)).abs().max()
            difference, scale = max(difference, float(deviation)), max(scale, float(expected.abs().max()))
        return difference, scale

    def _publish(self, name: str, path: Path, metrics: dict[str, float]) -> Export:
        session = Session(path, torch.get_num_threads())
        metrics = measure(session, self._measured, self._task, self._dataset) | metrics
        files = sorted(path.parent.glob(f"{path.name}*"))  # The weights of a large model are in separate files.
        size = sum(file.stat().st_size for file in files)
        paths = [self._folder.publish(file.name, file) for file in files]
        return Export(format=name, path=paths[0], bytes=size, metrics=metrics)


def _example(dataset: Dataset) -> Batch:
    """Return two samples for tracing."""
    return dataset.splits.train.take(torch.tensor([0, 0]))


def _real(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the outputs without those of padding."""
    if batch.mask is None or outputs.shape[:2] != batch.mask.shape:
        return outputs
    return outputs[batch.mask]
