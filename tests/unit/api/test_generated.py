"""What is generated is up to date: the CRD of the manifests and of the chart."""

from pathlib import Path

import pytest

from trainwright.api.crd import crd
from trainwright.manifests import dump

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("path", ["manifests/crd.yaml", "charts/trainwright/files/crd.yaml"])
def test_the_crd_is_what_the_types_say(path):
    assert (ROOT / path).read_text() == dump(crd()), f"run: trainwright crd > {path}"
