"""Commands of `trainwright`, one file each.

Starting must cost next to nothing, so a command's file imports only typer; what the command needs is imported when it runs.
"""


def main() -> None:
    """Run the command line; the entry point of `trainwright` and of the kubectl plugin `kubectl-tj`."""
    from trainwright.cli.app import app  # noqa: PLC0415 - importing the package must not cost a command line

    app()
