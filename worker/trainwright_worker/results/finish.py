"""Finishes a job after the last step: evaluates the test split and writes weights, predictions and other results.

If predictions fail, the job fails. Generated text, exports and explanations are made after the weights are written. If
one of them fails, the log, the report and `status.results.problems` say so, but the job succeeds: the trained weights
are safe, and training again would not help.
"""

import json
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import nn

from trainwright import __version__
from trainwright.api.figures import Evaluation
from trainwright.api.names import SUMMARY_FILE, WEIGHTS_FILE
from trainwright.api.status import Export, Results
from trainwright.api.worker import WorkerPhase
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.data.given import samples_to_predict
from trainwright_worker.data.splits import class_indices
from trainwright_worker.errors import NonFiniteError
from trainwright_worker.models.huggingface import HuggingFaceModel
from trainwright_worker.results.equation import equation
from trainwright_worker.results.explain import explain
from trainwright_worker.results.export import export, reason
from trainwright_worker.results.folder import ResultsFolder
from trainwright_worker.results.generate import generate
from trainwright_worker.results.huggingface import write_pretrained
from trainwright_worker.results.predict import encode, predict
from trainwright_worker.results.weights import model_of, on_device, savable, weights_of
from trainwright_worker.training.evaluate import evaluation_batch, measure_split
from trainwright_worker.training.run import Run

Made = TypeVar("Made")


def finish(run: Run, step: int) -> None:
    """Evaluate the test split and write the results, as the last action of a rank. All ranks must call this.

    Args:
        run: This rank.
        step: The step of the model's weights.
    """
    run.telemetry.report(phase=WorkerPhase.EVALUATING)
    test, problems = _measure_test(run, step)
    if test is not None:
        run.progress.evaluation = test
    run.telemetry.report(phase=WorkerPhase.PREDICTING, evaluation=run.progress.evaluation)
    folder = ResultsFolder(run.config.job_folder)
    predictions = _predict(run, folder)
    weights = weights_of(run)
    if run.placement.leads:
        results = _Results(run, folder, model_of(run, weights), step, test, problems).write(predictions)
        run.telemetry.report(phase=WorkerPhase.FINISHED, results=results)
        run.telemetry.log(f"finished: {results.folder}")
    run.group.wait_for_leader()


def _measure_test(run: Run, step: int) -> tuple[Evaluation | None, list[str]]:
    """Return the evaluation on the test split, if there is one, and the problems that occurred."""
    try:
        return measure_split(run, "test", step), []
    except NonFiniteError as error:  # A single bad sample can cause this, so it must not fail the job.
        problem = f"{error.message}; check the split for extreme values"
        run.telemetry.warn(problem)
        return None, [problem]


def _predict(run: Run, folder: ResultsFolder) -> str | None:
    """Write the predictions and return their path; None if the spec requests none, and on all ranks but 0."""
    spec = run.spec.prediction
    if spec is None:
        return None
    split, known = samples_to_predict(spec, run.data.dataset)
    batch = evaluation_batch(run)
    run.learner.model.eval()
    rows = predict(run, split, batch, known=known)
    with tempfile.NamedTemporaryFile(prefix="trainwright-predictions-") as file:
        for line in encode(rows, spec.format):
            file.write(line)
        file.flush()
        return folder.publish(f"predictions.{spec.format}", Path(file.name)) if run.placement.leads else None


class _Results:
    """Writes the results on rank 0, and collects the problems."""

    def __init__(
        self,
        run: Run,
        folder: ResultsFolder,
        model: nn.Module,
        step: int,
        test: Evaluation | None,
        problems: list[str],
    ) -> None:
        self._run = run
        self._folder = folder
        self._model = model
        self._step = step
        self._test = test
        self._problems = problems

    def write(self, predictions: str | None) -> Results:
        """Write everything and return the paths. The weights come first, so that later failures cannot lose them."""
        weights = self._write_weights()
        if self._run.data.dataset.tokenizer is not None:
            for name, content in self._run.data.dataset.tokenizer.files().items():
                self._folder.write(name, content.encode())
        results = Results(folder=self._folder.path, weights=weights.path, predictions=predictions, exports=[weights])
        self._summarize(results)
        more = self._generate() | self._explain()
        results = results.changed(exports=[weights, *self._export()], **more)
        # An optional result: the summary above already describes the weights.
        self._attempt(SUMMARY_FILE, lambda: self._summarize(self._with_problems(results)))
        return self._with_problems(results)

    def _with_problems(self, results: Results) -> Results:
        return results.changed(problems=self._problems[:8])

    def _write_weights(self) -> Export:
        with tempfile.TemporaryDirectory(prefix="trainwright-results-") as scratch:
            file = Path(scratch, WEIGHTS_FILE)
            safetensors.torch.save_file(savable(self._model), file)
            path = self._folder.publish(WEIGHTS_FILE, file)
            return Export(format="safetensors", path=path, bytes=file.stat().st_size)

    def _generate(self) -> dict[str, Any]:
        spec, tokenizer = self._run.spec.generation, self._run.data.dataset.tokenizer
        if spec is None or tokenizer is None:
            return {}
        device = on_device(self._model, self._run.group.device)
        made = self._attempt(
            "spec.generation", lambda: generate(spec, self._model, tokenizer, device, self._run.telemetry.log)
        )
        self._model.cpu()
        if made is None:
            return {}
        content, samples = made
        return {"generated": self._folder.write("generated.jsonl", content), "samples": samples}

    def _explain(self) -> dict[str, Any]:
        spec, data, task = self._run.spec.explanation, self._run.data.dataset, self._run.learner.task
        if spec is None:
            return {}
        made = self._attempt("spec.explanation", lambda: explain(spec, self._model, data, task, self._folder))
        return {} if made is None else {"explanations": made}

    def _export(self) -> list[Export]:
        run, model, exports = self._run, self._model, []
        if isinstance(model, HuggingFaceModel):
            dataset = run.data.dataset
            made = self._attempt(
                "the folder for transformers",
                lambda: write_pretrained(model, dataset.classes, dataset.tokenizer, self._folder),
            )
            exports += [] if made is None else [made]
        if run.spec.export is not None:
            exports += export(run.spec.export, model, run.data.dataset, run.learner.task, self._folder, self._attempt)
        for made in exports:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in made.metrics.items())
            run.telemetry.log(f"exported {made.format}: {made.bytes / 1e6:,.3g} MB" + (f", {shown}" if shown else ""))
        return exports

    def _attempt(self, name: str, make: Callable[[], Made]) -> Made | None:
        """Return the result of `make`; if it fails, report the problem and return None."""
        self._run.telemetry.pulse.beat()
        try:
            return make()
        except Exception as error:  # noqa: BLE001 - exporters raise all kinds of errors, and the weights are written
            problem = f"{name}: {reason(error)}"[:512]
            self._problems.append(problem)
            self._run.telemetry.warn(problem)
            return None

    def _summarize(self, results: Results) -> None:
        """Write results.json: the evaluations, the spec and versions of the training, and the exported files."""
        run = self._run
        progress, dataset = run.progress, run.data.dataset
        found = equation(self._model, dataset)
        summary = {
            "step": progress.step,
            "weightsOfStep": self._step,
            "samples": run.data.sampler.samples_before(progress.step),
            "test": None if self._test is None else self._test.to_wire(),
            "best": None if progress.best is None else progress.best.to_wire(),
            "history": progress.history,
            "evaluations": [evaluation.to_wire() for evaluation in progress.evaluations],
            "baselines": _baselines(dataset),
            "data": dataset.measured.to_json(),
            "features": getattr(dataset.splits.train, "features", None),
            **({} if found is None else {"equation": found}),
            "processes": run.group.size,
            **results.model_dump(mode="json", by_alias=True, include={"exports", "problems"}),
            "spec": run.spec.to_wire(),
            "versions": {
                "trainwright": __version__,
                "python": platform.python_version(),
                "torch": str(torch.__version__),
            },
        }
        self._folder.write(SUMMARY_FILE, json.dumps(summary, indent=2).encode())


def _baselines(dataset: Dataset) -> dict[str, dict[str, float]]:
    """Return by split the accuracy of always predicting its most frequent class, and its number of samples."""
    found = {}
    for name, part in (("validation", dataset.splits.validation), ("test", dataset.splits.test)):
        targets = None if part is None or dataset.classes is None else class_indices(part)
        if targets is not None and len(targets):
            found[name] = {"accuracy": int(targets.bincount().max()) / len(targets), "samples": len(targets)}
    return found
