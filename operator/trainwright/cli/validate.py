"""`trainwright validate`."""

from typing import Annotated

import typer


def validate(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB.yaml", help="Manifests; - reads standard input.")],
) -> None:
    """Check manifests without running them."""
    from rich.console import Console  # noqa: PLC0415 - imports are paid for by the command that needs them

    from trainwright.api.exit_codes import ExitCode  # noqa: PLC0415
    from trainwright.api.job import InvalidJobError, read_manifest  # noqa: PLC0415
    from trainwright.cli.manifest import SourceManifest, read_jobs  # noqa: PLC0415
    from trainwright.cli.mistakes import show_cautions, show_mistakes  # noqa: PLC0415

    errors = Console(stderr=True, highlight=False)
    all_valid = True

    def check(source: str, manifest: SourceManifest) -> None:
        nonlocal all_valid
        try:
            spec = read_manifest(manifest.document)
            typer.echo(f"{source}: valid")
            show_cautions(errors, spec, manifest)
        except InvalidJobError as error:
            all_valid = False
            show_mistakes(errors, source, error.errors, manifest)

    for source in jobs:
        try:
            manifests = read_jobs(source)
        except InvalidJobError as error:
            all_valid = False
            show_mistakes(errors, source, error.errors)
            continue
        for number, manifest in enumerate(manifests, start=1):
            check(f"{source}, job {number}" if len(manifests) > 1 else source, manifest)
    if not all_valid:
        raise typer.Exit(ExitCode.USER_ERROR)
