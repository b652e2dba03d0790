"""`trainwright run`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Output(StrEnum):
    """Formats of the output at the end."""

    TABLE = "table"
    YAML = "yaml"
    JSON = "json"
    NAME = "name"


def run(
    job: Annotated[str | None, typer.Argument(metavar="JOB.yaml", help="The manifest; - reads standard input.")] = None,
    *,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-w", metavar="N", min=1, help="Train with N workers instead of spec.workers.count."),
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="Output format at the end.")] = Output.TABLE,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN_FOLDER", help="Resume an earlier run from its newest checkpoint."),
    ] = None,
    runs: Annotated[
        Path, typer.Option("--dir", metavar="FOLDER", help="Folder in which each run creates its own folder.")
    ] = Path("runs"),
    volume: Annotated[
        list[str] | None,
        typer.Option("--volume", metavar="NAME=FOLDER", help="The folder that stands for a volume of the job."),
    ] = None,
    logs: Annotated[bool, typer.Option("--logs", "-l", help="Print the logs of all workers.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Train a job here, without a cluster."""
    if job is None and resume is None:
        raise typer.BadParameter("pass a manifest, or --resume with the folder of a run", param_hint="JOB.yaml")
    from trainwright.cli.local.command import Request, execute  # noqa: PLC0415 - imports are paid for when they are needed

    request = Request(
        source=job,
        workers=workers,
        output=str(output),
        resume=resume,
        runs=runs,
        volumes=volume or [],
        logs=logs,
        quiet=quiet,
    )
    raise typer.Exit(execute(request))
