"""Implements `trainwright run`, from the manifest to the exit code."""

import asyncio
import contextlib
import copy
import json
import secrets
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from trainwright.api.exit_codes import RETRYABLE, SIGNAL_BASE, ExitCode
from trainwright.api.job import GENERATED_LENGTH, FieldError, InvalidJobError, read_spec
from trainwright.api.names import GROUP, SINGULAR
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.training import Precision
from trainwright.api.status import Phase, read_status
from trainwright.cli.local.display import Display, make_display
from trainwright.cli.local.folder import ANNOTATION_DATA, RunFolder, UnwritableError
from trainwright.cli.local.logs import ends, follow
from trainwright.cli.local.session import End, Job, Session, logging_to
from trainwright.cli.local.summary import show_summary
from trainwright.cli.manifest import STDIN, SourceManifest, read_here, read_job
from trainwright.cli.mistakes import show_mistakes
from trainwright.cluster.local import Folders
from trainwright.cluster.local.gpus import asked, computes_bf16, count_gpus
from trainwright.cluster.local.mounts import mistakes as path_mistakes
from trainwright.cluster.local.mounts import named_volumes
from trainwright.manifests import dump


@dataclass(frozen=True)
class Request:
    """The options of the command.

    Attributes:
        source: The manifest's file, `-` for standard input; None with `resume` for the run's own.
        workers: Number of workers, instead of the manifest's.
        output: table, yaml, json or name.
        resume: Folder of the run to resume.
        runs: Where new runs get their folder.
        volumes: NAME=FOLDER of each volume.
        logs: Whether to print what the workers log.
        quiet: Whether to show no progress.
    """

    source: str | None
    workers: int | None
    output: str
    resume: Path | None
    runs: Path
    volumes: list[str]
    logs: bool
    quiet: bool


@dataclass(frozen=True)
class _Prepared:
    """A validated run.

    Attributes:
        job: The TrainingJob to submit.
        spec: Its spec, read.
        data: The folder to which dataset paths are relative.
        volumes: Folders by the volume's name.
    """

    job: Job
    spec: TrainingJobSpec
    data: Path
    volumes: dict[str, Path]


def execute(request: Request) -> int:
    """Run a job and return the exit code."""
    errors = Console(stderr=True, highlight=False)
    manifest: SourceManifest | None = None
    try:
        manifest = read_job(request.source) if request.source is not None else None
        earlier = RunFolder.reopen(request.resume) if request.resume is not None else None
        before = earlier.load() if earlier is not None else None
        prepared = _prepare(request, manifest, before)
        if earlier is not None and _phase(prepared.job) == Phase.SUCCEEDED:
            return _report_already_succeeded(request, prepared.job, earlier, before or {}, errors)
        folder = earlier or RunFolder.create(request.runs, prepared.job["metadata"]["name"])
    except InvalidJobError as error:
        show_mistakes(errors, request.source or str(request.resume or "run"), error.errors, manifest)
        return ExitCode.USER_ERROR
    try:
        return _train(request, prepared, folder, errors, before)
    except UnwritableError as error:
        errors.print(str(error), soft_wrap=True, markup=False)
        if folder.holds_job:
            _print_how_to_resume(request, errors, folder.load(), folder, End(killed=True))
        return ExitCode.INFRASTRUCTURE


def _prepare(request: Request, manifest: SourceManifest | None, earlier: Job | None) -> _Prepared:
    """Return the validated run.

    Raises:
        InvalidJobError: It cannot be run. Nothing was started.
    """
    written = copy.deepcopy(manifest.document if manifest is not None else earlier)
    _give_name(written, earlier)
    document, spec = read_here(written, manifest.folder if manifest is not None else None, request.workers)
    volumes = named_volumes(request.volumes)
    data = _data_folder(manifest, document)
    mistakes = path_mistakes(spec, data, volumes)
    name = document["metadata"]["name"]
    if earlier is not None and earlier["metadata"]["name"] != name:
        mistakes.append(
            FieldError("--resume", f"{request.resume} is a run of {earlier['metadata']['name']}, not {name}")
        )
    if mistakes:
        raise InvalidJobError(mistakes)
    return _Prepared(_job(document, earlier, data), spec, data, volumes)


def _give_name(document: Any, earlier: Job | None) -> None:
    """Give a job with a generateName its name, as the API server would; a run that is resumed keeps the name that it has."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    if not isinstance(metadata, dict) or metadata.get("name") or not isinstance(metadata.get("generateName"), str):
        return
    prefix = metadata["generateName"]
    former = "" if earlier is None else earlier["metadata"]["name"]
    metadata["name"] = (
        former
        if former.startswith(prefix) and former
        else prefix + secrets.token_hex(GENERATED_LENGTH)[:GENERATED_LENGTH]
    )


def _report_already_succeeded(request: Request, job: Job, folder: RunFolder, before: Job, errors: Console) -> int:
    """Handle a request to resume a run that has succeeded already.

    Raises:
        InvalidJobError: The job trains something else than the run did, which needs a new run.
    """
    if _what_is_trained(job) != _what_is_trained(before):
        results = read_status(job["status"]).results
        start = f": set spec.startFrom: {{path: {results.folder}}} to begin with its weights" if results else ""
        reason = f"{folder.shown} has succeeded and cannot be resumed; start a new run for a different spec{start}"
        raise InvalidJobError([FieldError("--resume", reason)])
    errors.print(f"{folder.shown} has succeeded already; there is nothing left to do", soft_wrap=True)
    _print(request, job, folder, finished=True)
    return ExitCode.SUCCESS


def _what_is_trained(job: Job) -> TrainingJobSpec:
    """Return the spec without suspend and workers, to compare what is trained."""
    return read_spec({**job["spec"], "suspend": False, "workers": {}})


def _data_folder(manifest: SourceManifest | None, document: Job) -> Path:
    if manifest is not None:
        return manifest.folder
    return Path((document["metadata"].get("annotations") or {}).get(ANNOTATION_DATA, "."))


def _job(document: Job, earlier: Job | None, data: Path) -> Job:
    """Return the job to submit: as written or, on a resume, with the UID and status of the earlier run."""
    metadata: dict[str, Any] = {"namespace": "default", **document["metadata"]}
    annotations = {**(metadata.get("annotations") or {}), ANNOTATION_DATA: str(data)}
    job: Job = {
        "apiVersion": document["apiVersion"],
        "kind": document["kind"],
        "metadata": {**metadata, "annotations": annotations},
        # `run` starts the job, so it is not suspended.
        "spec": {**document["spec"], "suspend": False},
    }
    if earlier is not None:
        kept = {key: earlier["metadata"][key] for key in ("uid", "creationTimestamp") if key in earlier["metadata"]}
        # The plan reads a change of the spec, such as the end of a suspension, from the generation.
        job["metadata"] |= {**kept, "generation": earlier["metadata"].get("generation", 1) + 1}
        job["status"] = _resumed_status(earlier.get("status") or {})
    return job


def _resumed_status(status: Job) -> Job:
    """Return the status with which a run is resumed. A failed run is tried again: its progress is kept, its failure is not.

    The digests of its spec are dropped, because a local run may be resumed with a changed spec.
    """
    status = {field: value for field, value in status.items() if field != "specDigests"}
    if status.get("phase") in (None, Phase.SUSPENDED, Phase.SUCCEEDED):
        return status
    if status["phase"] != Phase.FAILED:
        # The run was killed, and its workers with it: they did not fail.
        kept = {
            field: value for field, value in status.items() if field not in ("startedAt", "nextStart", "waitingSince")
        }
        return {**kept, "phase": Phase.SUSPENDED.value}
    failure = (
        "phase",
        "reason",
        "message",
        "conditions",
        "failure",
        "restarts",
        "finishedAt",
        "startedAt",
        "nextStart",
    )
    return {field: value for field, value in status.items() if field not in failure}


def _train(request: Request, prepared: _Prepared, folder: RunFolder, errors: Console, before: Job | None) -> int:
    name = prepared.job["metadata"]["name"]
    display = make_display(errors, name, quiet=request.quiet)
    if not request.quiet:
        errors.print(f"[dim]{name} in {folder.shown}[/dim]", soft_wrap=True)
        for line in _differences(prepared.spec):
            errors.print(line, soft_wrap=True, markup=False)
    with display, logging_to(folder, display.note):
        job, end = asyncio.run(_session(request, prepared, folder, display, errors))
    if end.by_signal is not None:
        _print_how_to_resume(request, errors, job, folder, end)
        _print(request, job, folder)
        return SIGNAL_BASE + end.by_signal
    if _phase(job) == Phase.FAILED and request.output != "table":
        show_summary(errors, job, folder)
    _print(request, job, folder, finished=True)
    if before is not None and _was_refused(job, before):
        folder.save(before)
        errors.print(f"{folder.shown} is unchanged and can be resumed with its original job", soft_wrap=True)
    return _exit_code(job)


def _was_refused(job: Job, before: Job) -> bool:
    """Return whether a resumed run took no step because of a mistake in the new spec."""
    status, earlier = read_status(job.get("status")), read_status(before.get("status"))
    hopeless = status.failure is not None and status.failure.category not in RETRYABLE
    return (
        status.phase == Phase.FAILED
        and hopeless
        and bool(earlier.checkpoints)
        and status.progress.launch == earlier.progress.launch
    )


async def _session(
    request: Request, prepared: _Prepared, folder: RunFolder, display: Display, errors: Console
) -> tuple[Job, End]:
    folders = Folders(run=folder.path, data=prepared.data, volumes=prepared.volumes)
    session = Session(prepared.job, folders, folder, display.update, display.note)
    following = None
    if request.logs:
        logs = folder.path / "logs"
        following = asyncio.create_task(follow(logs, ends(logs), lambda pod, line: _print_log(errors, pod, line)))
    try:
        return await session.run()
    finally:
        if following is not None:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


def _print_log(console: Console, pod: str, line: str) -> None:
    worker = pod.rsplit("-", 2)[1]
    console.print(f"worker {worker} │ {line}", soft_wrap=True, markup=False)


def _differences(spec: TrainingJobSpec) -> list[str]:
    """Return how this machine differs from what the manifest asks for."""
    gpus = count_gpus()
    lines = []
    if asked(spec) and not gpus:
        lines.append(f"each worker asks for {asked(spec)}; this machine has no GPU, so training runs on the CPU")
    elif 0 < gpus < spec.world_size:
        lines.append(f"this machine has {gpus} GPU(s) for {spec.world_size} processes, so training runs on the CPU")
    if spec.training.precision == Precision.BF16 and gpus < spec.world_size and not computes_bf16():
        lines.append(
            "spec.training.precision: bf16 is emulated on this CPU, which has no instructions for it; fp32 is faster here"
        )
    if spec.suspend:
        lines.append("spec.suspend is ignored in a local run")
    return lines


def _print_how_to_resume(request: Request, errors: Console, job: Job, folder: RunFolder, end: End) -> None:
    status = read_status(job.get("status"))
    # The workers may have saved a later step than they could still report.
    newest = folder.newest_checkpoint
    if newest is None and status.checkpoints:
        newest = status.checkpoints[-1].step
    saved = "nothing is saved yet" if newest is None else f"step {newest:,} is saved"
    reached = max(status.progress.step, newest or 0)
    errors.print(f"{'killed' if end.killed else 'stopped'} at step {reached:,}; {saved}")
    words = ["trainwright", "run"]
    words += [request.source] if request.source not in (None, STDIN) else []
    words += [part for pair in request.volumes for part in ("--volume", pair)]
    words += ["--workers", str(request.workers)] if request.workers is not None and len(words) > 2 else []  # noqa: PLR2004
    verb = "start from scratch" if newest is None else "resume"
    errors.print(f"{verb} with: {shlex.join([*words, '--resume', folder.shown])}", soft_wrap=True, markup=False)


def _print(request: Request, job: Job, folder: RunFolder, *, finished: bool = False) -> None:
    """Print the job to standard output in the format that was asked for."""
    match request.output:
        case "yaml":
            sys.stdout.write(dump(job))
        case "json":
            sys.stdout.write(json.dumps(job, indent=2) + "\n")
        case "name":
            sys.stdout.write(f"{SINGULAR}.{GROUP}/{job['metadata']['name']}\n")
        case _ if finished:
            show_summary(Console(highlight=False), job, folder)


def _phase(job: Job) -> Phase | None:
    return read_status(job.get("status")).phase


def _exit_code(job: Job) -> int:
    """Return 0 for a job that succeeded, else the code of its failure's class, or 1."""
    status = read_status(job.get("status"))
    if status.phase == Phase.SUCCEEDED:
        return ExitCode.SUCCESS
    code = status.failure.exit_code if status.failure is not None else None
    return code if code in set(ExitCode) - {ExitCode.SUCCESS} else 1
