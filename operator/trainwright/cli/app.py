"""The command-line application: its commands and common options."""

from typing import Annotated

import typer

from trainwright.cli.crd import crd
from trainwright.cli.plan import plan
from trainwright.cli.run import run
from trainwright.cli.validate import validate
from trainwright.cli.version import print_version, version

_EPILOG = """\
Begin with:
  trainwright run manifests/examples/digits-cnn.yaml
  trainwright plan manifests/examples/gpt3-175b.yaml --gpu h200
Exit codes: 0 done; 1 failed, or does not fit; 2 wrong usage; 64 a mistake in the job;
65 to 75 the class of a failure (docs/failures.md); 130 stopped by Ctrl-C."""

app = typer.Typer(
    name="trainwright",
    help="Train PyTorch models from one TrainingJob: on Kubernetes with kubectl apply, or right here with run.",
    no_args_is_help=True,
    epilog="\b\n" + _EPILOG,
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


# Hidden, because only the Helm chart runs it.
@app.command(hidden=True)
def operator() -> None:
    """Run the operator in a cluster.

    Settings come from environment variables, for example TRAINWRIGHT_NAMESPACES=team-a,team-b.
    """
    from trainwright.cli.operator import run_operator  # noqa: PLC0415 - imports are paid for by the command that needs them

    run_operator()
