"""`trainwright plan`."""

from enum import StrEnum
from typing import Annotated

import typer


class Output(StrEnum):
    """Formats of the output."""

    TABLE = "table"
    JSON = "json"


def gpu_names(incomplete: str) -> list[str]:
    """Return the GPUs whose names start with the typed text."""
    from trainwright.api.devices import GPUS  # noqa: PLC0415 - imports are paid for when they are needed

    return [name for name in GPUS if name.startswith(incomplete.lower())]


def plan(
    job: Annotated[str, typer.Argument(metavar="JOB.yaml", help="The manifest; - reads standard input.")],
    *,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="NAME",
            help="Plan for this GPU: b200, h200, h100, a100-80gb, l4, ...",
            autocompletion=gpu_names,
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--device-memory", metavar="80Gi", help="Memory per process to plan for.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-w", metavar="N", min=1, help="Plan for N workers instead of spec.workers.count."),
    ] = None,
    volume: Annotated[
        list[str] | None,
        typer.Option("--volume", metavar="NAME=FOLDER", help="The folder that stands for a volume of the job."),
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="Output format.")] = Output.TABLE,
) -> None:
    """Show the resources that a job needs and whether it fits, without training."""
    from trainwright.cli.local.planning import Request, execute  # noqa: PLC0415 - imports are paid for when they are needed

    request = Request(
        source=job, gpu=gpu, memory=memory, workers=workers, volumes=volume or [], json=output == Output.JSON
    )
    raise typer.Exit(execute(request))
