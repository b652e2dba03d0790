"""Every generated file and what it is generated from. `make generate` writes them, a test compares them."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from reference import reference

from trainwright.api.definitions import definitions
from trainwright.manifests import dump_all

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "trainwright"
KUBE_VERSION = "--kube-version=1.34.0"
"""A helm without a cluster takes some version for granted, and not each takes one that the chart supports."""
RENDERED_FLAGS = ("--namespace=trainwright-system", "--set=crds.enabled=false", "--skip-tests", KUBE_VERSION)


def find_helm() -> str | None:
    """Return helm from PATH, or the one that the kind tests built."""
    built = Path.home() / ".cache" / "trainwright" / "kind" / "bin" / "helm"
    return shutil.which("helm") or (str(built) if built.exists() else None)


def custom_resource_definition() -> str:
    return dump_all(definitions())


def kustomize_base() -> str:
    """What the chart renders with its default values.

    Raises:
        FileNotFoundError: helm is not installed.
    """
    helm = find_helm()
    if helm is None:
        raise FileNotFoundError("helm is not installed: manifests/base/operator.yaml stays as it is")
    command = [helm, "template", "trainwright", str(CHART), *RENDERED_FLAGS]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


FILES: dict[str, Callable[[], str]] = {
    "manifests/crd.yaml": custom_resource_definition,
    "charts/trainwright/files/crd.yaml": custom_resource_definition,
    # After the chart's own copy of the CRD.
    "manifests/base/operator.yaml": kustomize_base,
    "docs/api.md": reference,
}
