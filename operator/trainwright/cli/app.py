"""The command line as a whole: its commands, and what holds for all of them."""

from typing import Annotated

import typer

from trainwright.cli.crd import crd
from trainwright.cli.plan import plan
from trainwright.cli.run import run
from trainwright.cli.validate import validate
from trainwright.cli.version import print_version, version

app = typer.Typer(
    name="trainwright",
    help="Train PyTorch models from one TrainingJob: on Kubernetes with kubectl apply, or right here with run.",
    no_args_is_help=True,
    # Plain help starts in half the time.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Train PyTorch models from one TrainingJob: on Kubernetes with kubectl apply, or right here with run."""


app.command()(run)
app.command()(plan)
app.command()(validate)
app.command()(crd)
app.command()(version)


@app.command()
def operator() -> None:
    """Run the operator in a cluster.

    Settings come from environment variables, for example TRAINWRIGHT_NAMESPACES=team-a,team-b.
    """
    from trainwright.cli.operator import run_operator  # noqa: PLC0415 - imports are paid for by the command that needs them

    run_operator()
