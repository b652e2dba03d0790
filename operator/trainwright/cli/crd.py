"""`trainwright crd`."""

import typer


def crd() -> None:
    """Print the CustomResourceDefinition."""
    from trainwright.api.crd import crd as definition  # noqa: PLC0415 - imports are paid for by the command that needs them
    from trainwright.manifests import dump  # noqa: PLC0415

    typer.echo(dump(definition()), nl=False)
