"""What is generated is up to date."""

import generated
import pytest

from trainwright.manifests import load


def objects(text):
    """Helm 3 and 4 order objects differently; nothing else may differ."""
    return sorted(load(text), key=lambda obj: (obj["kind"], obj["metadata"]["name"]))


@pytest.mark.generated
@pytest.mark.parametrize("name", generated.FILES)
def test_a_generated_file_is_what_its_source_generates(name):
    try:
        expected = generated.FILES[name]()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    written = (generated.ROOT / name).read_text()
    if name == "manifests/base/operator.yaml":
        assert objects(written) == objects(expected), "run: make generate"
    else:
        assert written == expected, "run: make generate"
