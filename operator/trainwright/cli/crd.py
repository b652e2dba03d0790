"""`trainwright crd`."""

import typer


def crd() -> None:
    """Print the CustomResourceDefinition and the admission policy that belongs to it."""
    from trainwright.api.definitions import definitions  # noqa: PLC0415 - imports are paid for by the command that needs them
    from trainwright.manifests import dump_all  # noqa: PLC0415

    typer.echo(dump_all(definitions()), nl=False)
