"""Rendering the chart. Without helm these tests are skipped, and say so."""

import shutil
import subprocess
from pathlib import Path

import pytest

from trainwright.manifests import load

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "trainwright"


def find_helm():
    built = Path.home() / ".cache" / "trainwright" / "kind" / "bin" / "helm"
    return shutil.which("helm") or (str(built) if built.exists() else None)


@pytest.fixture(scope="session")
def helm():
    """Run helm and return the finished process."""
    binary = find_helm()
    if binary is None:
        pytest.skip("helm is not installed")

    def run(*args):
        return subprocess.run([binary, *args], text=True, capture_output=True, check=False)

    return run


@pytest.fixture(scope="session")
def render(helm):
    """Return the objects that the chart renders with these --set values."""

    def template(*values, release="trainwright", flags=()):
        done = helm(
            "template",
            release,
            str(CHART),
            "--namespace=trainwright-system",
            *(f"--set-json={value}" for value in values),
            *flags,
        )
        assert done.returncode == 0, done.stderr
        return load(done.stdout)

    return template
