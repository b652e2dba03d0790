"""Rendering the chart. Without helm these tests are skipped, and say so."""

import subprocess

import generated
import pytest

from trainwright.manifests import load


@pytest.fixture(scope="session")
def helm():
    """Run helm and return the finished process."""
    binary = generated.find_helm()
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
            str(generated.CHART),
            "--namespace=trainwright-system",
            generated.KUBE_VERSION,
            *(f"--set-json={value}" for value in values),
            *flags,
        )
        assert done.returncode == 0, done.stderr
        return load(done.stdout)

    return template
