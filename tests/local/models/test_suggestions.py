"""What the API suggests for names of models, without the libraries to ask, exists in them."""

import pytest
from torchvision.models import list_models
from transformers import CONFIG_MAPPING

from trainwright.api.spec import model

pytestmark = pytest.mark.local


def test_every_model_that_is_suggested_exists():
    assert {family + member for family, member in model._VISION.items()} <= set(list_models())
    assert set(model._TRANSFORMERS) <= set(CONFIG_MAPPING)
