"""The command line starts at once, so it must not import what only some commands need."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from trainwright.cli.plan import gpu_names

COSTLY = ("torch", "kopf", "kubernetes", "aiohttp", "rich", "yaml", "structlog", "cryptography")


def modules_of(*arguments):
    """Run the command line and return its output and what it imported."""
    program = (
        "import json, sys; sys.argv = ['trainwright', *sys.argv[1:]]\n"
        "from trainwright.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments", [("--help",), ("run", "--help"), ("plan", "--help"), ("validate", "--help"), ("--version",)]
)
def test_help_imports_nothing_costly(arguments):
    output, modules = modules_of(*arguments)
    assert output
    assert not set(COSTLY) & set(modules)


def test_help_names_the_commands_of_people_and_how_to_begin():
    output, _ = modules_of("--help")
    assert [c for c in ("run", "plan", "validate", "crd", "version") if f"  {c} " not in output] == []
    assert "  operator " not in output
    assert "\n    trainwright run manifests/examples/digits-cnn.yaml\n" in output


@pytest.mark.parametrize("program", ["trainwright", "kubectl-tj"])
def test_both_programs_are_installed(program):
    (entry,) = entry_points(group="console_scripts", name=program)
    assert entry.value == "trainwright.cli:main"


def test_names_of_gpus_are_completed():
    assert gpu_names("A100") == ["a100-80gb", "a100-40gb"]
