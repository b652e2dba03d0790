"""`trainwright version`."""

import typer


def print_version(requested: bool) -> None:  # noqa: FBT001 - typer calls it so
    """Print the version and exit, if requested."""
    if requested:
        version()
        raise typer.Exit


def version() -> None:
    """Print the version."""
    from importlib import metadata  # noqa: PLC0415 - not needed by any other command

    typer.echo(metadata.version("trainwright"))
