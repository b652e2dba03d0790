"""Implements `trainwright plan`, from the manifest to the exit code. The worker's preflight process does the calculation."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from trainwright.api.amounts import bytes_text, quantity_value, seconds_text
from trainwright.api.devices import GPUS, find_gpu
from trainwright.api.exit_codes import ExitCode
from trainwright.api.job import FieldError, InvalidJobError
from trainwright.api.preflight import PreflightAnswer, PreflightRequest
from trainwright.api.spec import TrainingJobSpec
from trainwright.cli.manifest import SourceManifest, read_here, read_job
from trainwright.cli.mistakes import show_cautions, show_mistakes
from trainwright.cluster.local import Folders
from trainwright.cluster.local.gpus import asked, count_gpus
from trainwright.cluster.local.mounts import (
    absent_paths,
    describe_absence,
    localize_spec,
    named_volumes,
    volume_mistakes,
)

DOES_NOT_FIT: Final = 1
_PREFLIGHT: Final = "trainwright_worker.preflight"
_PRODUCT: Final = "nvidia.com/gpu.product"
"""Label by which nodes tell their GPU; a job that selects it says what it will run on."""
_LIBRARIES: Final = 400 * 2**20
"""Bytes that Python and torch take of a worker before the first tensor; its processes share them."""
_PROCESS: Final = 50 * 2**20
"""Bytes that each process adds to them."""


@dataclass(frozen=True)
class Request:
    """The options of the command.

    Attributes:
        source: The manifest's file; `-` for standard input.
        gpu: The GPU to plan for.
        memory: Memory per process, as a quantity.
        workers: Number of workers, instead of the manifest's.
        volumes: NAME=FOLDER of each volume.
        json: Whether to print JSON.
    """

    source: str
    gpu: str | None
    memory: str | None
    workers: int | None
    volumes: list[str]
    json: bool


def execute(request: Request) -> int:
    """Plan a job as asked and return the exit code."""
    errors = Console(stderr=True, highlight=False)
    manifest: SourceManifest | None = None
    try:
        manifest = read_job(request.source)
        question, absent = _question(request, manifest)
        # Large models take a while, on a terminal not in silence.
        with errors.status("following the model's passes and counting what they need"):
            answer = _ask(question)
    except InvalidJobError as error:
        show_mistakes(errors, request.source, error.errors, manifest)
        return ExitCode.USER_ERROR
    show_cautions(errors, question.spec, manifest)
    for line in absent:
        errors.print(line, soft_wrap=True, markup=False)
    if answer.mistake is not None:
        field, _, message = answer.mistake.partition(": ")
        named = field.startswith("spec")
        mistake = FieldError(field if named else "spec", message if named else answer.mistake)
        show_mistakes(errors, request.source, [mistake], manifest)
        if answer.hint:
            errors.print(f"    {answer.hint}", soft_wrap=True, markup=False)
        if answer.assumed:
            errors.print(f"    {_assumptions(answer)}", soft_wrap=True, markup=False)
        return ExitCode.USER_ERROR
    limited = request.memory is None and question.memory is not None
    _print(request, answer, _taken(question.spec) if limited else 0)
    if question.unnamed_gpu and question.memory is None:
        errors.print(
            f"whether it fits depends on the GPU: this job asks for {asked(question.spec)} per worker and this machine has "
            "none: name one with --gpu h200",
            soft_wrap=True,
        )
    return ExitCode.SUCCESS if answer.preflight is None or answer.preflight.fits else DOES_NOT_FIT


def _question(request: Request, manifest: SourceManifest) -> tuple[PreflightRequest, list[str]]:
    """Return the request to the preflight, and a line for every path that does not exist here."""
    _, written = read_here(manifest.document, manifest.folder, request.workers)
    volumes = named_volumes(request.volumes)
    if wrong := volume_mistakes(written, volumes):
        raise InvalidJobError(wrong)
    folders = Folders(Path(), manifest.folder, volumes)
    absent = absent_paths(written, folders)
    spec, root = localize_spec(written, folders)
    gpu = _gpu(request.gpu, spec)
    question = PreflightRequest(
        spec=spec,
        data_root=str(root),
        absent=[field for field, _ in absent],
        gpu=gpu,
        unnamed_gpu=gpu is None and bool(asked(spec)) and not count_gpus(),
        memory=_memory(request.memory, gpu, spec),
    )
    return question, [f"{field}: {describe_absence(written, path, folders)}" for field, path in absent]


def _memory(text: str | None, gpu: str | None, spec: TrainingJobSpec) -> int | None:
    """Return the bytes that each process has: as asked for, or its part of the limit of a worker on CPUs."""
    if text is not None:
        return _bytes("--device-memory", text)
    limits = spec.workers.resources.limits if spec.workers.resources and spec.workers.resources.limits else {}
    if "memory" not in limits or gpu is not None or asked(spec):
        return None
    limit = _bytes("spec.workers.resources.limits.memory", str(limits["memory"]))
    # One byte, if nothing is left: whatever the job, it does not fit.
    return max(1, (limit - _taken(spec)) // spec.workers.processes_per_worker)


def _taken(spec: TrainingJobSpec) -> int:
    """Return the bytes of a worker on CPUs that are no job's to use."""
    return _LIBRARIES + _PROCESS * spec.workers.processes_per_worker


def _gpu(name: str | None, spec: TrainingJobSpec) -> str | None:
    """Return the GPU to plan for: the one asked for, else the one whose nodes the job selects."""
    wanted = name or (spec.workers.node_selector or {}).get(_PRODUCT)
    if wanted is None:
        return None
    gpu = find_gpu(wanted)
    if gpu is not None:
        return gpu.name.lower()
    if name is None:
        return None
    raise InvalidJobError([FieldError("--gpu", f"{name!r} is unknown: choose one of {', '.join(GPUS)}")])


def _bytes(field: str, text: str) -> int:
    """Return the bytes of a quantity."""
    try:
        number = int(quantity_value(text))
    except ValueError:
        number = 0
    if not number:
        raise InvalidJobError([FieldError(field, f"{text!r} is not a memory size: use a quantity such as 80Gi")])
    return number


def _ask(question: PreflightRequest) -> PreflightAnswer:
    """Have the worker's preflight answer, in a process of its own: torch is never imported here."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "trainwright_worker")):
        reason = (
            "needs PyTorch to measure the model: in a clone of Trainwright, pip install '.[worker]' or make install"
        )
        raise InvalidJobError([FieldError("trainwright plan", reason)])
    done = subprocess.run(  # noqa: S603 - our own program
        # -P: the user's copy.py or random.py beside the manifest must not take the place of Python's own.
        [sys.executable, "-P", "-m", _PREFLIGHT],
        input=json.dumps(question.to_wire()),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise InvalidJobError([FieldError("trainwright plan", f"the preflight failed: {last[0]}")])
    return PreflightAnswer.model_validate_json(done.stdout.splitlines()[-1])


def _print(request: Request, answer: PreflightAnswer, taken: int) -> None:
    if request.json:
        wire = answer.to_wire()
        wire.pop("table", None)
        sys.stdout.write(json.dumps(wire, indent=2) + "\n")
        return
    lines = list(answer.table)
    if taken:
        lines.append(f"besides, Python and torch take {bytes_text(taken)} of each worker's limit")
    if answer.seconds_per_step is not None:
        lines.append(f"a step at 40 % of the peak takes {seconds_text(answer.seconds_per_step)}")
    if answer.assumed:
        lines.append(_assumptions(answer))
    if answer.preflight is not None:
        lines += ["", answer.preflight.message.partition(". It fits with")[0]]
    lines += [f"  fits with {way.change}: {bytes_text(way.bytes)} per process" for way in answer.ways]
    sys.stdout.write("\n".join(lines) + "\n")


def _assumptions(answer: PreflightAnswer) -> str:
    return f"assumed about data that is not available here: {'; '.join(answer.assumed)}"
