"""`trainwright validate`."""

from typing import Annotated

import typer


def validate(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB.yaml...", help="Manifests; - reads standard input.")],
) -> None:
    """Check manifests; run nothing."""
    from rich.console import Console  # noqa: PLC0415 - imports are paid for by the command that needs them

    from trainwright.api.exit_codes import ExitCode  # noqa: PLC0415
    from trainwright.api.job import InvalidJobError, read_manifest  # noqa: PLC0415
    from trainwright.cli.manifest import Manifest, read_job  # noqa: PLC0415
    from trainwright.cli.mistakes import show_mistakes  # noqa: PLC0415

    errors = Console(stderr=True, highlight=False)
    all_valid = True
    for source in jobs:
        manifest: Manifest | None = None
        try:
            manifest = read_job(source)
            read_manifest(manifest.document)
            typer.echo(f"{source}: valid")
        except InvalidJobError as error:
            all_valid = False
            show_mistakes(errors, source, error.errors, manifest)
    if not all_valid:
        raise typer.Exit(ExitCode.USER_ERROR)
